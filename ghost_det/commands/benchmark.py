"""Measure the speed of detectors on this machine.

Times are from an image to boxes, alternating between the models; ratios are relative to the first one, round
by round. A config without a checkpoint has random weights, which leave post-processing little to do.
"""

import argparse
import logging
import warnings
from functools import partial

from ghost_det.config.shipped import is_config
from ghost_det.utils.system import cores, machine, versions
from ghost_det.utils.timing import interleave, ratio, spread

from ._options import COUNT, SIZE, open_detector, pair_models

CALLS = 2
"""Timed calls per round, after one warm-up call."""
PACKAGES = ('ghost-det', 'torch', 'openvino', 'onnxruntime', 'ncnn', 'onedl-mmdetection', 'mmdet')


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = '%(prog)s [options] MODEL.xml|MODEL.onnx|MODEL.ncnn|CONFIG [CHECKPOINT.pth] ...'
    models = 'exported detector, or a config and optionally its checkpoint'
    parser.add_argument('models', nargs='+', metavar='MODEL', help=models)
    parser.add_argument('--size', **SIZE, default=(480, 640), help='image size (default: 480 640)')
    parser.add_argument('--threads', **COUNT, help='CPU threads (default: all cores)')
    parser.add_argument('--rounds', **COUNT, default=20, help='number of rounds (default: %(default)s)')


def run(args: argparse.Namespace) -> None:
    """Time the models of the command line, and print the quartiles of times and ratios."""
    import numpy as np

    threads, (height, width) = args.threads or cores(), args.size
    logging.disable(logging.WARNING)
    warnings.simplefilter('ignore')
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    calls = {}
    for name, (model, checkpoint) in pair_models(args.models).items():
        detector = open_detector(model, checkpoint, threads)
        if is_config(model) and checkpoint is None:
            import torch

            torch.set_flush_denormal(True)  # activations fade without training, and denormals are slow
        calls[name] = partial(detector, image)
    samples = interleave(calls, rounds=args.rounds, calls=CALLS, warm=1)
    print(f'{machine()["processor"]}, {threads} threads, {height} x {width} px, {args.rounds} rounds')
    print(', '.join(f'{name} {version}' for name, version in versions(PACKAGES).items()))
    print('milliseconds (quartiles), ratio (quartiles), model:')
    first = next(iter(samples.values()))
    for name, found in samples.items():
        times, ratios = spread([1e3 * each.seconds for each in found]), ratio(found, first)
        time = f'{times.middle:.1f} ({times.low:.1f}-{times.high:.1f})'
        relative = f'{ratios.middle:.2f} ({ratios.low:.2f}-{ratios.high:.2f})'
        print(f'  {time:22}  {relative:20}  {name}')
