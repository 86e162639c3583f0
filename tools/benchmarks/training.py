"""A training step under the settings that a config can choose, or of backbones on their own.

python -m tools.benchmarks.training --batch-size 8 --size 320
python -m tools.benchmarks.training --backbones
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from mmdet.registry import MODELS
from mmdet.testing import demo_mm_inputs
from mmengine.logging import MessageHub
from mmengine.model import ExponentialMovingAverage, revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from ghost_det.config.load import load_config
from ghost_det.errors import UserError
from ghost_det.utils.timing import Sample, interleave, ratio

from ._common import run
from .backbones import network

DEFAULT = 'channels-last'
SETTINGS = {
    DEFAULT: "the configs' ChannelsLastHook",
    'plain layout': 'ChannelsLastHook with enabled=False',
    'bfloat16': '--amp',
    'float16': '--amp',
    'EMA': "custom_hooks += dict(type='EMAHook')",
    'accumulation': 'optim_wrapper.accumulative_counts=4',
    'compiled': 'compile=True',
}
"""Name of a setting to how it is chosen; all but the second have channels-last weights."""
TRAINED = (
    'timm ghostnet_100',
    'GhostNet 1.0',
    'timm ghostnet_100 features_only',
    'MobileNetV3-L',
    'ResNet-18',
)
LAYOUTS = {'plain layout': torch.contiguous_format, 'channels-last': torch.channels_last}


class _Step:
    """A detector with its optimizer, trained on one batch of random images again and again."""

    def __init__(self, cfg: Any, setting: str, batch: int, side: int) -> None:
        device = 'cuda' if torch.cuda.is_available() else 'cpu'
        model = copy.deepcopy(cfg.model)
        model.backbone.init_cfg = None
        torch.manual_seed(0)
        self.detector = revert_sync_batchnorm(MODELS.build(model)).to(device).train()
        self.detector.init_weights()
        if setting != 'plain layout':
            self.detector.to(memory_format=torch.channels_last)
        wrapper = copy.deepcopy(cfg.optim_wrapper)
        wrapper.type = 'OptimWrapper'
        if setting == 'accumulation':
            wrapper.accumulative_counts = 4
        elif setting == 'bfloat16':
            wrapper.type = 'AmpOptimWrapper' if device == 'cuda' else 'Bf16OptimWrapper'
            wrapper.update(dict(dtype='bfloat16') if device == 'cuda' else {})
        elif setting == 'float16':
            wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic')
        self.wrapper = build_optim_wrapper(self.detector, wrapper)
        self.average = ExponentialMovingAverage(self.detector) if setting == 'EMA' else None
        MessageHub.get_current_instance().update_info('iter', 0)  # which the loop of a training does
        self.data = demo_mm_inputs(batch, (3, side, side), num_classes=cfg.model.bbox_head.num_classes)
        self.step: Callable[..., Any] = self.detector.train_step
        if setting == 'compiled':
            self.step = torch.compile(self.detector.train_step)

    def __call__(self) -> None:
        self.step(copy.deepcopy(self.data), self.wrapper)
        if self.average is not None:
            self.average.update_parameters(self.detector)
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def training_table(config: str, batch: int, side: int, rounds: int, compiled: bool) -> Iterator[str]:
    """Yield the lines of a Markdown table: a training step under each setting, and its ratio to `DEFAULT`."""
    cfg = load_config(config)
    if 'bbox_head' not in cfg.model:
        raise UserError(f'{config}: expected a one-stage detector (with model.bbox_head)')
    init_default_scope('mmdet')
    names = [name for name in SETTINGS if name != 'float16' or torch.cuda.is_available()]
    names = [name for name in names if name != 'compiled' or compiled]
    steps, first = {}, {}
    for name in names:
        steps[name] = _Step(cfg, name, batch, side)
        try:
            start = time.perf_counter()
            steps[name]()
            first[name] = time.perf_counter() - start
        except (RuntimeError, ValueError) as error:
            what = f'{batch} images of {side} x {side}, {name}'
            raise UserError(f'{config}: no step with {what}: {error}') from error
    samples = interleave(steps, rounds)
    yield f'{batch} images of {side} x {side}, {torch.get_num_threads()} threads, {rounds} rounds.\n'
    yield '| setting | chosen by | first step (s) | step (ms) | ratio (quartiles) |'
    yield '|---|---|---|---|---|'
    for name, found in samples.items():
        cells = _cells(found, samples[DEFAULT])
        yield f'| {name} | `{SETTINGS[name]}` | {first[name]:.1f} | {cells} |'


def _cells(found: list[Sample], baseline: list[Sample]) -> str:
    """Return the milliseconds of a step, and the quartiles of its ratio to the baseline's."""
    low, middle, high = ratio(found, baseline)
    return f'{1000 * median(each.seconds for each in found):.0f} | {middle:.2f} ({low:.2f}-{high:.2f})'


def backbone_training_table(batch: int, size: tuple[int, int], rounds: int) -> Iterator[str]:
    """Yield the lines of a Markdown table: a training step of only backbones, and its ratio to timm's.

    A step is forward, the mean of the maps' squares as the loss, backward, and plain SGD.
    """
    images = torch.randn(batch, 3, *size)
    steps = {
        f'{name} | {layout}': _backbone_step(name, images, memory_format)
        for name in TRAINED
        for layout, memory_format in LAYOUTS.items()
    }
    for step in steps.values():
        step()
    samples = interleave(steps, rounds)
    yield f'{batch} images of {size[0]} x {size[1]}, {torch.get_num_threads()} threads, {rounds} rounds.\n'
    yield '| backbone | layout | step (ms) | ratio (quartiles) |'
    yield '|---|---|---|---|'
    for name, found in samples.items():
        yield f'| {name} | {_cells(found, samples[f"{TRAINED[0]} | plain layout"])} |'


def _backbone_step(name: str, images: torch.Tensor, memory_format: torch.memory_format) -> Callable[[], None]:
    model = copy.deepcopy(network(name)).train().to(memory_format=memory_format)
    images = images.to(memory_format=memory_format)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)

    def step() -> None:
        maps = model(images)
        maps = maps.values() if isinstance(maps, dict) else maps
        loss: Any = sum(each.square().mean() for each in maps)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('config', nargs='?', default='retinanet_ghostnet_fpn_lite', metavar='CONFIG')
    parser.add_argument('--batch-size', type=int, default=8, help='images a step (default: %(default)s)')
    parser.add_argument('--size', type=int, default=320, help='side of the images (default: %(default)s)')
    parser.add_argument('--rounds', type=int, default=10, help='steps of each (default: %(default)s)')
    parser.add_argument('--compile', action='store_true', help='torch.compile as well: minutes to begin')
    parser.add_argument('--backbones', action='store_true', help="ours and timm's, 256 x 320, instead")
    args = parser.parse_args()
    if args.backbones:
        lines = backbone_training_table(args.batch_size, (256, 320), args.rounds)
    else:
        lines = training_table(args.config, args.batch_size, args.size, args.rounds, args.compile)
    for line in lines:
        print(line, flush=True)


if __name__ == '__main__':
    run(main)
