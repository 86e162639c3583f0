"""OpenVINO and ONNX Runtime behind one interface: an open file makes engines; an engine runs batches."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ghost_det.errors import UserError
from ghost_det.utils.images import Image
from ghost_det.utils.system import cores

from .metadata import KEY, Metadata

INPUT, SIZES = 'images', 'sizes'
OUTPUTS = ('boxes', 'scores', 'labels')
RUNTIME = 'pip install "ghost-det[runtime]"'

Sizes = NDArray[np.int64]
"""Height and width of each image on its canvas, ``[N, 2]``."""
Raw = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
"""The graph's outputs for a batch: boxes ``[N, K, 4]``, scores ``[N, K]``, labels ``[N, K]``."""


class Engine(NamedTuple):
    """A compiled model; several threads may call ``run``, which works at ``requests`` batches at a time."""

    run: Callable[[Image, Sizes], Raw]
    requests: int


def model_files(path: Path) -> list[Path]:
    """Return the files of an exported detector: ``NAME.onnx``, or ``NAME.xml`` and ``NAME.bin``."""
    if path.suffix not in ('.onnx', '.xml'):
        raise UserError(f'{path}: expected an exported detector, NAME.onnx or NAME.xml')
    files = [path] if path.suffix == '.onnx' else [path, path.with_suffix('.bin')]
    for file in files:
        if not file.is_file():
            raise UserError(
                f'{file}: no such file; an exported detector is NAME.onnx, or NAME.xml and NAME.bin'
            )
    return files


def open_model(path: Path, device: str, threads: int | None) -> OpenVinoModel | OnnxModel:
    """Open an exported detector by the engine that is installed; see `Detector`."""
    model_files(path)
    if path.suffix == '.onnx' and find_spec('onnxruntime'):
        return OnnxModel(path, device, threads)
    if find_spec('openvino'):  # reads both
        return OpenVinoModel(path, device, threads)
    needed = 'onnxruntime' if path.suffix == '.onnx' else 'openvino'
    raise UserError(f'{path}: needs {needed}, which is not installed: {RUNTIME}')


@functools.cache
def openvino_core() -> Any:
    """Return OpenVINO, one for the process.

    Its CPU plugin gives the thread that first uses it a stack of its own for signal handlers, and frees that
    with the plugin, which another thread may do: the next signal then ends the process.

    And the first two threads that look into a tensor at the same time deadlock: one has the lock of a table
    that is made then and waits for Python's, the other the other way round. So look once before.
    """
    import openvino

    for kind in (np.uint8, np.float32, np.int64):
        assert openvino.Tensor(np.zeros(1, kind)).data.dtype == kind
    return openvino.Core()


class OpenVinoModel:
    """A model that OpenVINO runs."""

    def __init__(self, path: Path, device: str, threads: int | None) -> None:
        self._path, self._device, self._threads = path, device, threads
        self._core = openvino_core()
        here = [*self._core.available_devices, 'AUTO']
        if device not in {*here, *(name.partition('.')[0] for name in here)}:
            raise UserError(f'device {device}: OpenVINO has {", ".join(here)} here')
        try:
            with path.open('rb') as file:  # OpenVINO tries every reader on another file, and each complains
                if path.suffix == '.xml' and b'<net' not in file.read(4096):
                    raise ValueError('not in the format of OpenVINO')
            self._model = self._core.read_model(path)
        except Exception as error:  # OpenVINO's have no common class
            raise unusable(path, error) from None
        # OpenVINO keeps an ONNX file's metadata in another place than its own files'.
        place = next((p for p in ([KEY], ['framework', KEY]) if self._model.has_rt_info(p)), None)
        text = str(self._model.get_rt_info(place).value) if place else None
        self.metadata = Metadata.from_json(text, str(path))

    def engine(self, batch: int, streams: int | None) -> Engine:
        """Compile the model for batches of at most ``batch`` images, ``streams`` of them at a time."""
        data = self.metadata
        sides = [-1, -1] if data.dynamic else [data.height, data.width]
        options: dict[str, Any] = {'PERFORMANCE_HINT': 'LATENCY' if streams == 1 else 'THROUGHPUT'}
        if streams is not None:
            options['NUM_STREAMS'] = streams
        if self._threads is not None:
            options['INFERENCE_NUM_THREADS'] = self._threads
            if self._device == 'CPU':
                # Pinned, the threads of all processes on a machine would share its first few cores.
                options['ENABLE_CPU_PINNING'] = False
        # Some processors would compute in bfloat16, also the floating-point layers of INT8 models.
        options['INFERENCE_PRECISION_HINT'] = 'f32'
        try:
            # Known shapes run faster; a copy, as there may be engines of several batch sizes.
            model = self._model.clone()
            model.reshape({INPUT: [batch, *sides, 3], SIZES: [batch, 2]})
            compiled = self._core.compile_model(model, self._device, options)
            count = streams or int(compiled.get_property('OPTIMAL_NUMBER_OF_INFER_REQUESTS'))
            requests: SimpleQueue[Any] = SimpleQueue()
            for _ in range(count):
                requests.put(compiled.create_infer_request())
        except Exception as error:
            raise unusable(self._path, error) from None

        def run(canvases: Image, sizes: Sizes) -> Raw:
            count = len(canvases)
            request = requests.get()
            try:
                request.infer({INPUT: _fill(canvases, batch), SIZES: _fill(sizes, batch)})
                boxes, scores, labels = (request.get_tensor(name).data[:count].copy() for name in OUTPUTS)
            finally:
                requests.put(request)
            return boxes, scores, labels

        return Engine(run, count)


class OnnxModel:
    """A model that ONNX Runtime runs, on the CPU."""

    def __init__(self, path: Path, device: str, threads: int | None) -> None:
        if device != 'CPU':
            raise UserError(f'device {device}: {path} runs on the CPU; others need an .xml for OpenVINO')
        self._path, self._threads = path, threads or cores()
        self._first = self._session(self._threads)
        text = self._first.get_modelmeta().custom_metadata_map.get(KEY)
        self.metadata = Metadata.from_json(text, str(path))

    def _session(self, threads: int) -> Any:
        os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # its warnings are for those who make graphs
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        try:
            return onnxruntime.InferenceSession(str(self._path), options, ['CPUExecutionProvider'])
        except Exception as error:  # its own exceptions have no common class
            raise unusable(self._path, error) from None

    def engine(self, batch: int, streams: int | None) -> Engine:
        """See `OpenVinoModel`; the batch may have any size."""
        count = streams or self._threads
        session = self._first if count == 1 else self._session(max(1, self._threads // count))

        def run(canvases: Image, sizes: Sizes) -> Raw:
            boxes, scores, labels = session.run(list(OUTPUTS), {INPUT: canvases, SIZES: sizes})
            return boxes, scores, labels

        return Engine(run, count)


def _fill(array: NDArray[Any], batch: int) -> NDArray[Any]:
    """Return an array with rows of zeros added, up to a complete batch."""
    if len(array) == batch:
        return array
    return np.pad(array, ((0, batch - len(array)), *[(0, 0)] * (array.ndim - 1)))


def unusable(path: Path, error: Exception) -> UserError:
    """Return an engine's error as one line about the file."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    why = next((line for line in lines if not line.startswith('Exception from')), type(error).__name__)
    return UserError(f'{path}: cannot be run: {why[:200]}; export it again with ghost-det export')
