"""What can run a network: torch as it is, fast or compiled; ONNX Runtime; OpenVINO, INT8 and in streams."""

from __future__ import annotations

import copy
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ghost_det.deploy.backends import openvino_core
from ghost_det.errors import UserError
from ghost_det.export.graph import deployed
from ghost_det.export.onnx import need, quiet
from ghost_det.export.quantize import quantization_settings

TORCH = ('eager', 'fast', 'compiled')
ENGINES = (*TORCH, 'onnxruntime', 'openvino', 'openvino int8')
STREAMS = ' streams'
SEPARATOR = ': '
CALIBRATION = 16  # images: enough for times, not for accuracy


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
    """Return a call of a network in torch; ``model`` is left as it is."""
    if engine != 'eager':
        from ghost_det.models.optimize import optimize

        model = optimize(copy.deepcopy(model), compile=engine == 'compiled')
        images = images.to(memory_format=torch.channels_last)

    def call() -> object:
        with torch.inference_mode():
            return model(images)

    return call


def export_onnx(model: nn.Module, images: torch.Tensor, path: Path) -> None:
    """Write a network, folded, as ONNX for inputs of exactly the shape of ``images``."""
    need('onnx')
    # The exporter by tracing is ten times as fast as the other one, and these networks do not branch.
    with quiet():
        torch.onnx.export(
            deployed(model), (images,), str(path), input_names=['images'], opset_version=17, dynamo=False
        )


def quantised(path: Path, images: Sequence[Any]) -> Any:
    """Return an ONNX file's network as a model of OpenVINO's, quantised as the project's exports are."""
    nncf = need('nncf')
    logging.getLogger('nncf').setLevel(logging.ERROR)
    need('openvino')
    model = openvino_core().read_model(path)
    settings = quantization_settings(model)
    with redirect_stdout(io.StringIO()):
        return nncf.quantize(model, nncf.Dataset(images), subset_size=len(images), **settings)


def in_onnxruntime(path: Path, images: np.ndarray[Any, Any], threads: int) -> Callable[[], object]:
    """Return a call of an ONNX file in ONNX Runtime."""
    onnxruntime = need('onnxruntime')
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

    With ``streams``, images run one by one, as many at once as OpenVINO thinks best.
    """
    openvino = need('openvino')
    core = openvino_core()
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
