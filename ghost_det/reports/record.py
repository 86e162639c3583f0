"""What is kept of a training, as plain data: `report.json`, from which pages and comparisons are made."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.model import is_model_wrapper
from mmengine.runner import find_latest_checkpoint

from ghost_det.data.annotations import survey
from ghost_det.data.checks.config import config_splits
from ghost_det.evaluation.errors import FOREGROUND, SCORE, Analysis, analyse
from ghost_det.evaluation.metric import FullCocoMetric
from ghost_det.evaluation.plots import draw_confusion, draw_curves, draw_errors
from ghost_det.evaluation.results import summary
from ghost_det.reports.elements import png
from ghost_det.swap.probe import complexity
from ghost_det.utils.system import machine
from ghost_det.utils.timing import interleave, spread

from .logs import by_epoch, curves, last_figures, read_scalars, training_seconds
from .pictures import draw_pair, ends, rank

SHOWN = 6  # images at each end
CLASSES_DRAWN = 30  # up to which the confusion matrix is one that a page has room for

Pictures = dict[str, list[tuple[str, bytes]]]


def make_record(
    runner: Any,
    config: str,
    metric: FullCocoMetric | None,
    commands: dict[str, str],
    seconds: dict[str, float],
) -> tuple[dict[str, Any], Pictures]:
    """Return what is to be kept of a training that has ended, and pictures by section.

    No part of it may take another with it: what is not available is left out, and ``lacking`` says why.
    ``metric`` has the detections of the last evaluation; ``seconds`` are those of this process.
    """
    work_dir = Path(runner.work_dir)
    rows = read_scalars(work_dir)
    dataset = runner.val_dataloader.dataset
    pictures: Pictures = {}
    record: dict[str, Any] = {**summary({}, {}, None, config=config), 'lacking': {}}
    analyses: dict[str, Analysis] = {}

    @contextlib.contextmanager
    def part(name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            record['lacking'][name] = f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'

    if metric is not None and metric.evaluations:
        with part('analysis'):
            for kind, evaluation in metric.evaluations.items():
                analyses[kind] = analyse(metric.truth, metric.detections[kind], evaluation.iou_type)
            last = find_latest_checkpoint(str(work_dir))
            record.update(
                summary(
                    metric.evaluations,
                    analyses,
                    Path(metric.ann_file),
                    config=config,
                    checkpoint=Path(last) if last else None,
                )
            )
        with part('pictures'):
            for kind, evaluation in metric.evaluations.items():
                pictures[kind] = [('Precision over recall', png(draw_curves(evaluation), 80))]
                if kind in analyses:
                    pictures[kind].append(
                        ('What each kind of error costs', png(draw_errors(analyses[kind]), 80))
                    )
                    if len(evaluation.classes) <= CLASSES_DRAWN:
                        pictures[kind].append(('Confused classes', png(draw_confusion(analyses[kind]), 80)))
        with part('images'):
            record['images'], drawn = _images(metric, dataset)
            pictures.update(drawn)
    if not record['metrics']:
        record['metrics'] = last_figures(rows)
    record.update(
        name=work_dir.resolve().name,
        settings=json.loads(json.dumps(runner.cfg.to_dict(), default=str)),
        curves=curves(rows, by_epoch(runner.cfg)),
        trained={'epochs': runner.epoch, 'iterations': runner.iter, 'processes': runner.world_size},
        seconds={'train': seconds['train'] - seconds['evaluate'], 'evaluate': seconds['evaluate']},
        seconds_by_log=training_seconds(rows),
        commands=commands,
    )
    with part('config'):
        record['child'] = Path(config).read_text(encoding='utf-8')
    with part('data'):
        record['data'] = data_summary(runner.cfg)
    with part('cost'):
        record['cost'] = cost(runner.model, dataset)
    with part('environment'):
        record['environment'] = environment()
    return record, pictures


def _images(metric: FullCocoMetric, dataset: Any) -> tuple[dict[str, Any], Pictures]:
    """Return the best and the worst images, and their pictures."""
    results = next(iter(metric.detections.values()))
    chosen = dict(zip(('best', 'worst'), ends(rank(metric.truth, results), SHOWN)))
    wanted = {each.image_id for group in chosen.values() for each in group}
    places: dict[int, Any] = {}
    for place in range(len(dataset)):
        if len(places) == len(wanted):
            break
        info = dataset.get_data_info(place)
        if info['img_id'] in wanted:
            places[info['img_id']] = info
    drawn: Pictures = {}
    listed: dict[str, Any] = {'score': SCORE, 'iou': FOREGROUND}
    for name, group in chosen.items():
        drawn[name], listed[name] = [], []
        for each in group:
            info = places[each.image_id]
            # By the data set's own loader, as img_path may be a key in a database or a URL.
            image = dataset.pipeline.transforms[0](info)['img']
            true = [box for box in metric.truth['annotations'] if box['image_id'] == each.image_id]
            found = [result for result in results if result['image_id'] == each.image_id]
            file = Path(info['img_path']).name
            text = f'{file}: F1 {each.f1:.2f}; {each.right} right of {each.found} found, {each.true} true'
            drawn[name].append((text, draw_pair(image, true, found, metric.truth['categories'])))
            listed[name].append({'file': file, **each._asdict()})
    return listed, drawn


def data_summary(cfg: Any) -> dict[str, Any]:
    """Return classes, images and boxes of each split whose annotations are COCO's and on this machine."""
    found: dict[str, Any] = {}
    for name, split in config_splits(cfg, ('train', 'val')):
        table = survey(split.annotations).table  # which the check before the training has read already
        sizes = table.by_size()
        counts = sizes.sum(1).tolist()
        part = {
            'annotations': str(split.annotations),
            'images': len(table.files),
            'images_without_boxes': len(table.files) - len({*table.image[table.image >= 0].tolist()}),
            'boxes': int(sizes.sum()),
            'by_size': sizes.sum(0).tolist(),
            'by_class': {str(table.categories[n]['name']): counts[n] for n in table.classes()},
        }
        found[name if name not in found else f'{name} {len(found)}'] = part
    return found


@torch.no_grad()
def cost(model: Any, dataset: Any) -> dict[str, Any]:
    """Return parameters and multiply-adds of each part, and the latency of one image on this machine.

    The latency is that of a validation image, loaded and resized already, through the complete detector with
    post-processing, as torch runs it: a short measure (1 s), the quartiles in ms.
    """
    detector = model.module if is_model_wrapper(model) else model
    detector.eval()
    batch = pseudo_collate([dataset[0]])
    shape = detector.data_preprocessor(batch, False)['inputs'].shape
    height, width = map(int, shape[-2:])
    cuda = next(detector.parameters()).is_cuda

    def call() -> None:
        detector.test_step(batch)
        if cuda:
            torch.cuda.synchronize()

    call()
    call()
    (samples,) = interleave({'detector': call}, seconds=1.0).values()
    latency = spread([1e3 * sample.seconds for sample in samples])
    parts = complexity(detector, height, width)
    return {
        'input': [height, width],
        'parts': {name: {'parameters': p, 'macs': m} for name, (p, m) in parts.items()},
        'latency_ms': [round(value, 2) for value in latency],
        'threads': torch.get_num_threads(),
        'device': torch.cuda.get_device_name() if cuda else 'CPU',
    }


def environment() -> dict[str, Any]:
    """Return what a training's figures and times depend on beside its config."""
    return {
        'machine': machine(),
        'threads': torch.get_num_threads(),
        'gpus': [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        'cuda': torch.version.cuda if torch.cuda.is_available() else None,
        'git': _revision(Path(__file__).parent),
        'started_as': shlex.join(sys.argv),
    }


def _revision(folder: Path) -> str | None:
    """Return the commit of a folder's repository, ``-dirty`` after it where files differ; or ``None``."""
    command = ['git', '-C', str(folder), 'describe', '--always', '--dirty', '--abbrev=12', '--match=']
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip() or None
    return None
