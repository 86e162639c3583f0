"""The record of a training as plain data, ``report.json``, from which pages and comparisons are made."""

import contextlib
import json
import shlex
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
from ghost_det.errors import reason
from ghost_det.evaluation.errors import Analysis
from ghost_det.evaluation.metric import FullCocoMetric
from ghost_det.evaluation.results import summary
from ghost_det.swap.probe import complexity
from ghost_det.utils.system import machine
from ghost_det.utils.timing import interleave, spread

from .history import by_epoch, make_curves, training_seconds

RECORD = 'report.json'


def record_progress(runner: Any, metric: FullCocoMetric | None) -> dict[str, Any]:
    """Return what is known of a training after an evaluation: its figures, curves and config."""
    evaluations = {} if metric is None else metric.evaluations
    annotations = Path(metric.ann_file) if metric is not None and evaluations else None
    return {
        **summary(evaluations, {}, annotations, config=runner.cfg.filename),
        'name': Path(runner.work_dir).resolve().name,
        'settings': json.loads(json.dumps(runner.cfg.to_dict(), default=str)),
        'curves': make_curves(runner),
        'trained': {'epochs': runner.epoch, 'iterations': runner.iter, 'processes': runner.world_size},
        'seconds_by_log': training_seconds(runner),
        'unfinished': _unfinished(runner),
    }


def _unfinished(runner: Any) -> str | None:
    """Return how far a training is, as ``epoch 2 of 8``, unless it is at its end."""
    if by_epoch(runner):
        unit, done, goal = 'epoch', runner.epoch, runner.max_epochs
    else:
        unit, done, goal = 'iteration', runner.iter, runner.max_iters
    return f'{unit} {done} of {goal}' if done < goal else None


@contextlib.contextmanager
def attempt(runner: Any, name: str) -> Iterator[None]:
    """Turn an error of this block into a warning: a report must not fail a training."""
    try:
        yield
    except Exception as error:
        runner.logger.warning(f'{name} could not be written: {reason(error)}')


def make_record(
    runner: Any, metric: FullCocoMetric | None, analyses: dict[str, Analysis], seconds: dict[str, float]
) -> dict[str, Any]:
    """Return the record of a training that has ended, without the parts that fail.

    ``metric`` has the last evaluation; ``seconds`` are those of this process.
    """
    record: dict[str, Any] = {
        **record_progress(runner, metric),
        'unfinished': None,
        'seconds': {'train': seconds['train'] - seconds['evaluate'], 'evaluate': seconds['evaluate']},
        'environment': {'machine': machine(), 'started_as': shlex.join(sys.argv)},
    }
    if metric is not None and metric.evaluations:
        last = find_latest_checkpoint(runner.work_dir)
        files = {'config': runner.cfg.filename, 'checkpoint': Path(last) if last else None}
        record.update(summary(metric.evaluations, analyses, Path(metric.ann_file), **files))
    with attempt(runner, 'config'):
        record['child'] = Path(runner.cfg.filename).read_text(encoding='utf-8')
    with attempt(runner, 'data'):
        record['data'] = summarize_data(runner.cfg)
    with attempt(runner, 'cost'):
        record['cost'] = measure_cost(runner.model, runner.val_dataloader.dataset)
    return record


def summarize_data(cfg: Any) -> dict[str, Any]:
    """Return classes, images and boxes of each split with COCO annotations on this machine."""
    found: dict[str, Any] = {}
    for name, split in config_splits(cfg, ('train', 'val')):
        table = survey(split.annotations).table  # cached since the check before the training
        sizes = table.by_size()
        counts = sizes.sum(1).tolist()
        found[name if name not in found else f'{name} {len(found)}'] = {
            'annotations': str(split.annotations),
            'images': len(table.files),
            'images_without_boxes': len(table.files) - len({*table.image[table.image >= 0].tolist()}),
            'boxes': int(sizes.sum()),
            'by_size': sizes.sum(0).tolist(),
            'by_class': {str(table.categories[n]['name']): counts[n] for n in table.classes()},
        }
    return found


@torch.no_grad()
def measure_cost(model: Any, dataset: Any) -> dict[str, Any]:
    """Return parameters and multiply-adds of each part, and the latency on the first validation image.

    The latency covers the complete detector in torch, for one second: quartiles in ms, without loading.
    """
    detector = model.module if is_model_wrapper(model) else model
    detector.eval()
    batch = pseudo_collate([dataset[0]])
    height, width = map(int, detector.data_preprocessor(batch, False)['inputs'].shape[-2:])
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
