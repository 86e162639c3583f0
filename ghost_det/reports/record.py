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
from ghost_det.evaluation.plots import plot_confusion, plot_errors, plot_pr_curves
from ghost_det.evaluation.results import summary
from ghost_det.swap.probe import complexity
from ghost_det.utils.files import read_json
from ghost_det.utils.plots import png
from ghost_det.utils.system import machine
from ghost_det.utils.text import plural
from ghost_det.utils.timing import interleave, spread

from .logs import by_epoch, curves, read_scalars, training_seconds
from .pictures import draw_pair, ends, load_image, rank

RECORD = 'report.json'
SHOWN = 6  # images at each end
CLASSES_DRAWN = 30  # up to which the confusion matrix is one that a page has room for

Pictures = dict[str, list[tuple[str, bytes]]]


def record_progress(runner: Any, metric: FullCocoMetric | None) -> dict[str, Any]:
    """Return what is known of a training after an evaluation: its figures, curves and config."""
    work_dir = Path(runner.work_dir)
    evaluations = {} if metric is None else metric.evaluations
    annotations = Path(metric.ann_file) if metric is not None and evaluations else None
    rows = read_scalars(work_dir)
    return {
        **summary(evaluations, {}, annotations, config=runner.cfg.filename),
        'name': work_dir.resolve().name,
        'settings': json.loads(json.dumps(runner.cfg.to_dict(), default=str)),
        'curves': curves(rows, by_epoch(runner.cfg)),
        'trained': {'epochs': runner.epoch, 'iterations': runner.iter, 'processes': runner.world_size},
        'seconds_by_log': training_seconds(rows),
        'unfinished': _unfinished(runner),
    }


def _unfinished(runner: Any) -> str | None:
    """Return how far a training is, as ``epoch 2 of 8``, unless it is at its end."""
    if by_epoch(runner.cfg):
        unit, done, goal = 'epoch', runner.epoch, runner.max_epochs
    else:
        unit, done, goal = 'iteration', runner.iter, runner.max_iters
    return f'{unit} {done} of {goal}' if done < goal else None


def make_record(
    runner: Any, metric: FullCocoMetric | None, commands: dict[str, str], seconds: dict[str, float]
) -> tuple[dict[str, Any], Pictures]:
    """Return what is to be kept of a training that has ended, and pictures by section.

    No part of it may take another with it: what is not available is left out, and ``lacking`` has the reason.
    ``metric`` has the detections of the last evaluation; ``seconds`` are those of this process.
    """
    dataset = runner.val_dataloader.dataset
    pictures: Pictures = {}
    record: dict[str, Any] = {
        **record_progress(runner, metric),
        'unfinished': None,
        'seconds': {'train': seconds['train'] - seconds['evaluate'], 'evaluate': seconds['evaluate']},
        'commands': commands,
        'lacking': {},
    }

    @contextlib.contextmanager
    def part(name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            record['lacking'][name] = f'{type(error).__name__}: {" ".join(str(error).split())[:200]}'

    if metric is not None and metric.evaluations:
        analyses: dict[str, Analysis] = {}
        with part('analysis'):
            for kind, evaluation in metric.evaluations.items():
                analyses[kind] = analyse(metric.truth, metric.detections[kind], evaluation.iou_type)
            last = find_latest_checkpoint(runner.work_dir)
            checkpoint = Path(last) if last else None
            annotations, config = Path(metric.ann_file), runner.cfg.filename
            record.update(
                summary(metric.evaluations, analyses, annotations, config=config, checkpoint=checkpoint)
            )
        with part('pictures'):
            pictures.update(_evaluation_pictures(metric, analyses))
        with part('images'):
            record['images'], drawn = _images(metric, dataset)
            pictures.update(drawn)
    elif (earlier := Path(runner.work_dir) / RECORD).exists():  # of the run that evaluated
        with part('figures'):
            record['metrics'] = read_json(earlier)['metrics']
    with part('config'):
        record['child'] = Path(runner.cfg.filename).read_text(encoding='utf-8')
    with part('data'):
        record['data'] = summarize_data(runner.cfg)
    with part('cost'):
        record['cost'] = measure_cost(runner.model, dataset)
    with part('environment'):
        record['environment'] = describe_environment()
    return record, pictures


def _evaluation_pictures(metric: FullCocoMetric, analyses: dict[str, Analysis]) -> Pictures:
    pictures: Pictures = {}
    for kind, evaluation in metric.evaluations.items():
        pictures[kind] = [('Precision over recall', png(plot_pr_curves(evaluation), 80))]
        if kind in analyses:
            pictures[kind].append(('What each kind of error costs', png(plot_errors(analyses[kind]), 80)))
            if len(evaluation.classes) <= CLASSES_DRAWN:
                pictures[kind].append(('Confused classes', png(plot_confusion(analyses[kind]), 80)))
    return pictures


def _images(metric: FullCocoMetric, dataset: Any) -> tuple[dict[str, Any], Pictures]:
    """Return the best and the worst images, and their pictures."""
    results = next(iter(metric.detections.values()))
    chosen = dict(zip(('best', 'worst'), ends(rank(metric.truth, results), SHOWN)))
    wanted = {each.image_id for group in chosen.values() for each in group}
    infos: dict[int, Any] = {}
    for place in range(len(dataset)):
        if len(infos) == len(wanted):
            break
        info = dataset.get_data_info(place)
        if info['img_id'] in wanted:
            infos[info['img_id']] = info
    drawn: Pictures = {}
    listed: dict[str, Any] = {'score': SCORE, 'iou': FOREGROUND}
    for name, group in chosen.items():
        drawn[name], listed[name] = [], []
        for each in group:
            info = infos[each.image_id]
            true = [box for box in metric.truth['annotations'] if box['image_id'] == each.image_id]
            found = [result for result in results if result['image_id'] == each.image_id]
            file = Path(info['img_path']).name
            text = f'{file}: F1 {each.f1:.2f}; {each.right} of {each.found} detections right, '
            text += plural(each.true, 'object')
            pair = draw_pair(load_image(dataset, info), true, found, metric.truth['categories'])
            drawn[name].append((text, pair))
            listed[name].append({'file': file, **each._asdict()})
    return listed, drawn


def summarize_data(cfg: Any) -> dict[str, Any]:
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
def measure_cost(model: Any, dataset: Any) -> dict[str, Any]:
    """Return parameters and multiply-adds of each part, and the latency of one image on this machine.

    The latency is that of a validation image, loaded and resized already, through the complete detector with
    post-processing, as torch runs it: a short measurement (1 s), the quartiles in ms.
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


def describe_environment() -> dict[str, Any]:
    """Return what a training's figures and times depend on in addition to its config."""
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
