"""Backbones beside each other: ours in every engine, and those of timm and torchvision with the same taps."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ghost_det import models
from ghost_det.errors import UserError
from ghost_det.export.onnx import need
from ghost_det.utils.timing import apart, interleave

from .annotations import MIB, memory
from .engines import (
    CALIBRATION,
    SEPARATOR,
    STREAMS,
    TORCH,
    choose,
    export_onnx,
    in_onnxruntime,
    in_openvino,
    in_torch,
    quantised,
    torch_threads,
)
from .roofline import Rates, bound, layers
from .rows import Results, Row, timed
from .untrained import settle

STRIDES = (4, 8, 16, 32)
GROWTH = (224, 320, 480, 640, 960, 1280)
CALLS = 2
"""Calls that a turn times, after one that it does not."""


def _ours(name: str) -> nn.Module:
    network = getattr(models, name)().eval()
    network.switch_to_deploy()
    return network  # type: ignore[no-any-return]


def _torchvision(name: str, *ends: str) -> nn.Module:
    extract = import_module('torchvision.models.feature_extraction').create_feature_extractor
    network = import_module('torchvision').models.get_model(name, weights=None).eval()
    tapped: nn.Module = extract(network, {end: str(i) for i, end in enumerate(ends)})
    return tapped


class _Ends(nn.Module):
    """A Ghost network of timm that returns the ends of its stages, and has no more than they need.

    torchvision's extractor would let the last convolution run as well: timm's norms assert, which it keeps.
    """

    def __init__(self, network: Any, ends: Sequence[int]) -> None:
        super().__init__()
        self.ends = ends
        self.stem = nn.Sequential(network.conv_stem, network.bn1, network.act1)
        self.blocks = network.blocks[: ends[-1] + 1]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.stem(x)
        maps = []
        for position, block in enumerate(self.blocks):
            x = block(x)
            if position in self.ends:
                maps.append(x)
        return maps


def _timm_itself() -> Any:
    try:
        return import_module('timm')
    except ImportError:
        raise UserError('timm is not installed: pip install timm (the extra dev has it)') from None


def _timm(name: str, ends: Sequence[int] = ()) -> nn.Module:
    timm = _timm_itself()
    if ends:
        network: nn.Module = _Ends(timm.create_model(name), ends)
    else:
        strides = timm.create_model(name, features_only=True).feature_info.reduction()
        taps = tuple(strides.index(stride) for stride in STRIDES)
        network = timm.create_model(name, features_only=True, out_indices=taps)
    folded: nn.Module = timm.utils.reparameterize_model(network.eval())
    return folded


_GHOST_ENDS = (2, 4, 6, 8)
_LAYERS = tuple(f'layer{i}' for i in (1, 2, 3, 4))
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    'GhostNet 1.0': partial(_ours, 'GhostNet'),
    'GhostNetV2 1.0': partial(_ours, 'GhostNetV2'),
    'GhostNetV3 1.0': partial(_ours, 'GhostNetV3'),
    'RepGhostNet 1.0': partial(_ours, 'RepGhostNet'),
    'timm ghostnet_100': partial(_timm, 'ghostnet_100', _GHOST_ENDS),
    'timm ghostnet_100 features_only': partial(_timm, 'ghostnet_100'),
    'timm repghostnet_100': partial(_timm, 'repghostnet_100', _GHOST_ENDS),
    'timm mobilenetv4_conv_small': partial(_timm, 'mobilenetv4_conv_small'),
    'timm lcnet_100': partial(_timm, 'lcnet_100'),
    'timm efficientnet_lite0': partial(_timm, 'efficientnet_lite0'),
    'timm hgnetv2_b0': partial(_timm, 'hgnetv2_b0'),
    'MobileNetV2': partial(_torchvision, 'mobilenet_v2', *(f'features.{i}' for i in (3, 6, 13, 17))),
    'MobileNetV3-L': partial(_torchvision, 'mobilenet_v3_large', *(f'features.{i}' for i in (3, 6, 12, 15))),
    'ResNet-18': partial(_torchvision, 'resnet18', *_LAYERS),
    'ResNet-50': partial(_torchvision, 'resnet50', *_LAYERS),
}
"""Name to what builds the network, untrained, folded for deployment, with maps at strides 4, 8, 16 and 32.

timm's ``features_only`` GhostNet is what its users get: it leaves out all but the first block of each stride.
"""
OURS = tuple(name for name in NETWORKS if name.endswith(' 1.0'))
BASELINE = f'timm ghostnet_100{SEPARATOR}eager'


@cache
def network(name: str) -> nn.Module:
    """Return a network of `NETWORKS`, with norms that fit random images.

    Raises:
        UserError: it needs timm, which is not installed.
    """
    torch.manual_seed(0)
    built = NETWORKS[name]()
    settle(built, torch.randn(4, 3, 192, 192))
    return built


def chosen(only: Sequence[str], engines: Sequence[str]) -> list[str]:
    """Return the contenders, ``NETWORK: ENGINE``, with the baseline among them.

    Args:
        only: parts of names, see `choose`.
        engines: of `ENGINES`; the fast and the compiled are for our networks.
    """
    names = [
        f'{name}{SEPARATOR}{engine}'
        for name in NETWORKS
        for engine in engines
        if name in OURS or engine not in TORCH[1:]
    ]
    return choose(names, only, BASELINE)


def _exported(name: str, engine: str, shape: tuple[int, ...], folder: Path) -> Path | None:
    """Return the file that an engine runs, made when first asked for; OpenVINO sets the batch itself."""
    if engine in TORCH:
        return None
    if engine.startswith('openvino'):
        shape = (1, *shape[1:])
    path = folder / f'{name}-{"x".join(map(str, shape))}.onnx'
    if not path.exists():
        export_onnx(network(name), torch.rand(shape), path)
    if 'int8' not in engine:
        return path
    small = path.with_suffix('.xml')
    if not small.exists():
        images = np.random.default_rng(0).standard_normal((CALIBRATION, *shape), np.float32)
        need('openvino').save_model(quantised(path, list(images)), small)
    return small


def _runner(
    name: str, engine: str, path: Path | None, shape: tuple[int, ...], threads: int
) -> Callable[[], object]:
    torch.manual_seed(0)
    images = torch.randn(shape)
    if path is None:
        return in_torch(engine, network(name), images)
    if engine == 'onnxruntime':
        return in_onnxruntime(path, images.numpy(), threads)
    return in_openvino(path, images.numpy(), threads, engine.endswith(STREAMS))


def footprint(name: str, engine: str, path: Path | None, shape: tuple[int, ...], threads: int) -> float:
    """Return the MB that loading a contender and running it three times adds to this process at the peak."""
    torch.set_num_threads(threads)
    before = memory()['rss']
    call = _runner(name, engine, path, shape, threads)
    for _ in range(3):
        call()
    return (memory()['peak'] - before) * MIB / 1e6


def measure(
    contenders: Sequence[str],
    shape: tuple[int, ...],
    threads: int,
    seconds: float,
    folder: Path,
    rates: Rates,
    with_memory: bool = False,
) -> list[Row]:
    """Time contenders on random images.

    Args:
        contenders: of `chosen`; of a batch, OpenVINO's are also run as streams of single images.
        shape: of the images, ``(N, 3, H, W)``.
        threads: of every engine.
        seconds: for all of them together.
        folder: for exported networks.
        rates: the machine's, for the bound.
        with_memory: measure it too, each in a process of its own.
    """
    batch, _, height, width = shape
    if batch > 1:
        contenders = [
            each
            for name in contenders
            for each in ((name, name + STREAMS) if 'openvino' in name else (name,))
        ]
    calls, paths = {}, {}
    with torch_threads(threads):
        for label in contenders:
            name, engine = label.split(SEPARATOR)
            paths[label] = _exported(name, engine, shape, folder)
            calls[label] = _runner(name, engine, paths[label], shape, threads)
            calls[label]()
        samples = interleave(calls, seconds=seconds, calls=CALLS, warm=1)
    rows = []
    for label, found in samples.items():
        name, engine = label.split(SEPARATOR)
        work = layers(network(name), torch.zeros(shape))
        rows.append(
            Row(
                *(name, engine, height, width, batch, threads),
                **timed(found, samples[BASELINE], batch),
                parameters=sum(parameter.numel() for parameter in network(name).parameters()),
                macs=sum(layer.macs for layer in work) // batch,
                bound=bound(work, rates, 'int8' in engine),
                memory=apart(footprint, name, engine, paths[label], shape, threads) if with_memory else None,
            )
        )
    return rows


def backbone_results(
    sizes: Sequence[int],
    batches: Sequence[int],
    threads: Sequence[int],
    contenders: Sequence[str],
    seconds: float,
    with_memory: bool = False,
) -> Iterator[Results]:
    """Yield the results so far, after each size, batch and number of threads.

    Args:
        sizes: sides of the images, in pixels.
        batches: numbers of images a call.
        threads: numbers of threads.
        contenders: of `chosen`.
        seconds: for each size, batch and number of threads.
        with_memory: of each contender, too.

    Raises:
        UserError: a package is missing.
    """
    for package in ('openvino', 'onnxruntime'):
        if any(package in name for name in contenders):
            need('onnx')
            need(package)
    rows: list[Row] = []
    rates = {count: Rates.measured(count) for count in threads}
    told = {str(count): rate.told() for count, rate in rates.items()}
    with tempfile.TemporaryDirectory() as folder:
        for size, batch, count in product(sizes, batches, threads):
            shape = (batch, 3, size, size)
            rows += measure(contenders, shape, count, seconds, Path(folder), rates[count], with_memory)
            yield Results('backbones', BASELINE, tuple(rows), told)


def exponents(rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
    """Fit ``milliseconds = a * (megapixels ** exponent)`` for each contender with three sizes or more.

    Returns:
        ``NETWORK: ENGINE, batch N, N threads`` to ``a`` and the exponent, least squares of the logarithms.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        label = f'{row.network}{SEPARATOR}{row.engine}, batch {row.batch}, {row.threads} threads'
        pixels = row.height * row.width / 1e6
        points.setdefault(label, []).append((math.log(pixels), math.log(row.milliseconds.middle)))
    found = {}
    for label, logs in points.items():
        if len(logs) < 3:
            continue
        x, y = (sum(column) / len(logs) for column in zip(*logs))
        slope = sum((a - x) * (b - y) for a, b in logs) / sum((a - x) ** 2 for a, _ in logs)
        found[label] = math.exp(y - slope * x), slope
    return found


def growth_table(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of a Markdown table of `exponents`."""
    yield '| contender | ms at one megapixel (fitted) | exponent over pixels |'
    yield '|---|---|---|'
    for label, (factor, exponent) in exponents(rows).items():
        yield f'| {label} | {factor:.3g} | {exponent:.2f} |'
