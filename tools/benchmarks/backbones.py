"""Backbones side by side: ours in every engine, and those of timm and torchvision with the same taps.

    python -m tools.benchmarks.backbones --sizes 320 640 --int8

All networks are untrained, folded for deployment, and give maps at strides 4, 8, 16 and 32.
"""

from __future__ import annotations

import argparse
import io
import logging
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ghost_det import models
from ghost_det.commands.benchmark import CALLS
from ghost_det.deploy.backends import openvino_core
from ghost_det.errors import UserError
from ghost_det.export.graph import deployed
from ghost_det.export.onnx import quiet, read_folded
from ghost_det.export.quantize import quantization_settings
from ghost_det.utils.timing import interleave

from ._common import SEPARATOR, TORCH, Row, add_options, choose, in_torch, print_tables, rows_of, run, settle

STRIDES = (4, 8, 16, 32)
ENGINES = (*TORCH, 'onnxruntime', 'openvino', 'openvino int8')
CALIBRATION = 16  # images: enough for times, not for accuracy


def _ours(name: str) -> nn.Module:
    network = getattr(models, name)().eval()
    network.switch_to_deploy()
    return network


def _torchvision(name: str, *ends: str) -> nn.Module:
    extract = import_module('torchvision.models.feature_extraction').create_feature_extractor
    network = import_module('torchvision').models.get_model(name, weights=None).eval()
    return extract(network, {end: str(i) for i, end in enumerate(ends)})


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


def _timm(name: str, ends: Sequence[int] = ()) -> nn.Module:
    try:
        timm = import_module('timm')
    except ImportError:
        raise UserError('timm is not installed: pip install timm (the extra dev has it)') from None
    if ends:
        network: nn.Module = _Ends(timm.create_model(name), ends)
    else:
        strides = timm.create_model(name, features_only=True).feature_info.reduction()
        taps = tuple(strides.index(stride) for stride in STRIDES)
        network = timm.create_model(name, features_only=True, out_indices=taps)
    return timm.utils.reparameterize_model(network.eval())


_GHOST_ENDS = (2, 4, 6, 8)
_LAYERS = tuple(f'layer{i}' for i in (1, 2, 3, 4))
# timm's features_only GhostNet is what its users get: it leaves out all but the first block of each stride.
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
OURS = tuple(name for name in NETWORKS if name.endswith(' 1.0'))
BASELINE = f'timm ghostnet_100{SEPARATOR}eager'


@cache
def network(name: str) -> nn.Module:
    """Return a network of `NETWORKS`, with norms that fit random images."""
    torch.manual_seed(0)
    built = NETWORKS[name]()
    settle(built, torch.randn(4, 3, 192, 192))
    return built


def contenders(only: Sequence[str], engines: Sequence[str]) -> list[str]:
    """Return the contenders, ``NETWORK: ENGINE``; the fast and the compiled are only for our networks."""
    names = [
        f'{name}{SEPARATOR}{engine}'
        for name in NETWORKS
        for engine in engines
        if name in OURS or engine not in TORCH[1:]
    ]
    return choose(names, only, BASELINE)


def _onnx(name: str, shape: tuple[int, ...], folder: Path) -> Path:
    path = folder / f'{name}-{"x".join(map(str, shape))}.onnx'
    if not path.exists():
        # The exporter by tracing is ten times as fast as the other one, and these networks do not branch.
        with quiet():
            images = (torch.rand(shape),)
            names = dict(input_names=['images'], opset_version=17, dynamo=False)
            torch.onnx.export(deployed(network(name)), images, str(path), **names)
    return path


def _in_onnxruntime(path: Path, images: np.ndarray, threads: int) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Threads that keep spinning after a call would take the cores from the contender whose turn is next.
    options.add_session_config_entry('session.force_spinning_stop', '1')
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    inputs = {session.get_inputs()[0].name: images}
    return lambda: session.run(None, inputs)


def _in_openvino(path: Path, images: np.ndarray, threads: int, int8: bool) -> Callable[[], object]:
    import openvino

    core = openvino_core()
    model = read_folded(path)
    if int8:
        import nncf

        logging.getLogger('nncf').setLevel(logging.ERROR)
        data = list(np.random.default_rng(0).standard_normal((CALIBRATION, *images.shape), np.float32))
        with redirect_stdout(io.StringIO()):
            settings = quantization_settings(model)
            model = nncf.quantize(model, nncf.Dataset(data), subset_size=CALIBRATION, **settings)
    settings = dict(INFERENCE_NUM_THREADS=threads, PERFORMANCE_HINT='LATENCY', INFERENCE_PRECISION_HINT='f32')
    request = core.compile_model(model, 'CPU', settings).create_infer_request()
    request.set_input_tensor(openvino.Tensor(images))
    return lambda: request.infer()


def runner(contender: str, shape: tuple[int, ...], threads: int, folder: Path) -> Callable[[], object]:
    """Return a call of a contender on random images."""
    name, engine = contender.split(SEPARATOR)
    torch.manual_seed(0)
    images = torch.randn(shape)
    if engine in TORCH:
        model = in_torch(engine, network(name))
        if engine != 'eager':
            images = images.to(memory_format=torch.channels_last)
        return torch.inference_mode()(lambda: model(images))
    path = _onnx(name, shape, folder)
    if engine == 'onnxruntime':
        return _in_onnxruntime(path, images.numpy(), threads)
    return _in_openvino(path, images.numpy(), threads, 'int8' in engine)


def measure(
    names: Sequence[str], sizes: Sequence[int], batch: int, threads: int, seconds: float
) -> Iterator[list[Row]]:
    """Yield the rows of each size of square images."""
    torch.set_num_threads(threads)
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            shape = (batch, 3, size, size)
            calls = {name: runner(name, shape, threads, Path(folder)) for name in names}
            samples = interleave(calls, seconds=seconds, calls=CALLS, warm=1)
        yield rows_of(samples, BASELINE, size, batch, threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--sizes', type=int, nargs='+', default=[320, 640], metavar='SIDE')
    parser.add_argument('--batch', type=int, default=1, metavar='N', help='images a call (default: 1)')
    parser.add_argument('--int8', action='store_true', help="OpenVINO's INT8 as well: a minute to begin")
    parser.add_argument('--compile', action='store_true', help='torch.compile as well: minutes to begin')
    add_options(parser)
    args = parser.parse_args()
    left_out = {'compiled': not args.compile, 'openvino int8': not args.int8}
    names = contenders(args.only, [engine for engine in ENGINES if not left_out.get(engine)])
    measured = measure(names, args.sizes, args.batch, args.threads, args.seconds)
    print_tables(measured, BASELINE, args.json)


if __name__ == '__main__':
    run(main)
