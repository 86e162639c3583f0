"""What can run a network: torch as it is, fast or compiled; ONNX Runtime; OpenVINO, INT8 and in streams."""

from __future__ import annotations

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import UserError

TORCH = ('eager', 'fast', 'compiled')
ENGINES = (*TORCH, 'onnxruntime', 'openvino', 'openvino int8')
STREAMS = ' streams'
SEPARATOR = ': '
CALIBRATION = 16  # images: enough for times, not for accuracy


def require(package: str) -> Any:
    """Import a package that the project can do without.

    Raises:
        UserError: it is missing; the message says what brings it.
    """
    if find_spec(package) is None:
        extra = 'dev' if package == 'timm' else 'deploy'
        raise UserError(f'{package} is not installed: pip install {package}, or "ghost-det[{extra}]" for all')
    return import_module(package)


def choose(contenders: Sequence[str], only: Sequence[str], baseline: str) -> list[str]:
    """Return the contenders of which ``only`` names a part, and the baseline, which none can do without.

    Raises:
        UserError: there is none.
    """
    found = [name for name in contenders if not only or any(part.lower() in name.lower() for part in only)]
    if not found:
        raise UserError(f'--only {" ".join(only)}: no such contender; there are {", ".join(contenders)}')
    return found if baseline in found else [baseline, *found]


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads within the context; the other engines are told when they load."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_torch(engine: str, model: nn.Module, images: torch.Tensor) -> Callable[[], object]:
    """Return a call of a network in torch; ``model`` is left as it is.

    Args:
        engine: of `TORCH`.
        model: in evaluation mode.
        images: ``(N, 3, H, W)``.
    """
    if engine != 'eager':
        from ..optimize import optimize

        model = optimize(copy.deepcopy(model), compile=engine == 'compiled')
        images = images.to(memory_format=torch.channels_last)

    def call() -> object:
        with torch.inference_mode():
            return model(images)

    return call


def export_onnx(model: nn.Module, images: torch.Tensor, path: Path) -> None:
    """Write a network as ONNX for inputs of exactly the shape of ``images``.

    Raises:
        UserError: the package onnx is missing.
    """
    require('onnx')
    # The exporter by tracing is ten times as fast as the other one, and these networks do not branch.
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        torch.onnx.export(model, (images,), str(path), input_names=['images'], opset_version=17, dynamo=False)


def quantise(path: Path, to: Path, shape: tuple[int, ...]) -> None:
    """Write an ONNX file's network as OpenVINO's, quantised by NNCF on random images.

    Args:
        path: ``.onnx``.
        to: ``.xml``.
        shape: of the input.

    Raises:
        UserError: openvino or nncf is missing.
    """
    openvino, nncf = require('openvino'), require('nncf')
    logging.getLogger('nncf').setLevel(logging.ERROR)
    rng = np.random.default_rng(0)
    images = [rng.standard_normal(shape, np.float32) for _ in range(CALIBRATION)]
    model = openvino.Core().read_model(path)
    settings: dict[str, Any] = {}
    if find_spec('ghost_det.deploy.int8') is not None:
        settings = import_module('ghost_det.deploy.int8').quantization_settings(model)
    with redirect_stdout(io.StringIO()):
        quantised = nncf.quantize(model, nncf.Dataset(images), subset_size=len(images), **settings)
    openvino.save_model(quantised, to)


def in_onnxruntime(path: Path, images: np.ndarray[Any, Any], threads: int) -> Callable[[], object]:
    """Return a call of an ONNX file in ONNX Runtime.

    Raises:
        UserError: onnxruntime is missing.
    """
    onnxruntime = require('onnxruntime')
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Threads that go on spinning after a call would take the cores from the contender whose turn is next.
    options.add_session_config_entry('session.force_spinning_stop', '1')
    session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    inputs = {session.get_inputs()[0].name: images}
    return lambda: session.run(None, inputs)


def in_openvino(
    path: Path, images: np.ndarray[Any, Any], threads: int, streams: bool
) -> Callable[[], object]:
    """Return a call of an ONNX or OpenVINO file in OpenVINO, in float32 but for what the file quantises.

    Args:
        path: ``.onnx`` or ``.xml``.
        images: ``(N, 3, H, W)``.
        threads: how many.
        streams: run the images one by one, as many at once as OpenVINO thinks best.

    Raises:
        UserError: openvino is missing.
    """
    openvino = require('openvino')
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape([1 if streams else len(images), *images.shape[1:]])
    hint = 'THROUGHPUT' if streams else 'LATENCY'
    settings = {'INFERENCE_NUM_THREADS': threads, 'PERFORMANCE_HINT': hint, 'INFERENCE_PRECISION_HINT': 'f32'}
    compiled = core.compile_model(model, 'CPU', settings)
    if not streams:
        request = compiled.create_infer_request()
        request.set_input_tensor(openvino.Tensor(images))

        def infer() -> None:
            request.infer()

        return infer
    queue = openvino.AsyncInferQueue(compiled)

    def call() -> None:
        for image in images:
            queue.start_async([image[None]], share_inputs=True)
        queue.wait_all()

    return call
