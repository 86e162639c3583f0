"""Exported detectors on this machine: by size, threads and batch, and their memory.

    python -m tools.benchmarks.deployment light.onnx light.xml light_int8.xml --image street.jpg

Give one file for each size, format and precision (`ghost-det export --size`). All of them alternate in one
run; ratios are to the first file with one thread. MB is the most memory of a process without torch.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tabulate import tabulate

from ghost_det.commands._options import positive_int
from ghost_det.deploy.detector import Detector
from ghost_det.utils.images import read_image
from ghost_det.utils.system import cores
from ghost_det.utils.timing import Sample, interleave, ratio, spread

from ._common import digits, run, setup

IMAGES = 16  # in a stream
PROCESS = """
import sys, numpy
sys.modules |= dict.fromkeys(['torch', 'mmengine', 'mmcv', 'mmdet'])  # as where only the runtime is installed
from ghost_det.deploy.detector import Detector

detector = Detector(sys.argv[1])
for _ in range(5):
    detector(numpy.zeros((480, 640, 3), 'uint8'))
print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))
"""


def contenders(path: Path, pixels: np.ndarray, threads: Sequence[int]) -> dict[str, Callable[[], Any]]:
    """Return what is timed for a file, by name: calls with some threads, and streams with all of them."""
    found: dict[str, Callable[[], Any]] = {}
    for count in threads:
        found[f'{count} threads'] = partial(Detector(path, threads=count), pixels)
    detector = Detector(path)
    for batch in (1, 8):
        found[f'stream of {batch}'] = lambda batch=batch: list(detector.stream([pixels] * IMAGES, batch))
    return found


def row(path: Path, samples: dict[str, list[Sample]], first: list[Sample]) -> list[str]:
    """Return the cells of a row: ms and ratio of each contender, by image; memory."""
    cells = []
    for name, found in samples.items():
        images = IMAGES if name.startswith('stream') else 1
        each = [Sample(sample.seconds / images, sample.cpu / images) for sample in found]
        time = spread([1e3 * sample.seconds for sample in each]).middle
        cells.append(f'{digits(time)} ({digits(ratio(each, first).middle)})')
    used = subprocess.run([sys.executable, '-c', PROCESS, path], check=True, capture_output=True, text=True)
    return [*cells, f'{int(used.stdout) / 1000:.0f}']


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('files', nargs='+', type=Path, metavar='FILE')
    every = [count for count in (1, 2, 4, 8, 16, 32, 64) if count <= cores()]
    parser.add_argument('--threads', nargs='+', type=positive_int, default=every, metavar='N')
    parser.add_argument('--image', type=Path, help='(default: noise, in which little is found)')
    parser.add_argument('--seconds', type=float, default=60, help='of timing (default: %(default)s)')
    args = parser.parse_args()
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    pixels = noise if args.image is None else read_image(args.image)
    calls, sides = {}, {}
    for path in args.files:
        data = Detector(path).metadata
        sides[path] = f'{data.height} x {data.width}'
        resized = cv2.resize(pixels, (data.width, data.height))
        for name, call in contenders(path, resized, sorted(args.threads)).items():
            calls[path, name] = call
    samples = interleave(calls, seconds=args.seconds, warm=1)
    names = list(dict.fromkeys(name for _, name in calls))
    first = samples[args.files[0], names[0]]
    rows = [
        [path.name, side, *row(path, {name: samples[path, name] for name in names}, first)]
        for path, side in sides.items()
    ]
    print(f'{setup()}\nms an image (ratio), {len(first)} rounds\n')
    print(tabulate(rows, ['file', 'input', *names, 'MB'], 'github', disable_numparse=True))


if __name__ == '__main__':
    run(main)
