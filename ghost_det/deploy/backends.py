"""OpenVINO, ONNX Runtime and ncnn behind one interface: open files make engines, which run batches."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ghost_det.errors import UserError
from ghost_det.utils.files import sha256
from ghost_det.utils.images import Image
from ghost_det.utils.system import cores

from .maps import MAPS_INPUT, RawDetections, Sizes, find_boxes, map_names
from .metadata import KEY, Metadata

INPUT, SIZES = 'images', 'sizes'
OUTPUTS = ('boxes', 'scores', 'labels')


class Engine(NamedTuple):
    """A compiled model; several threads may call ``run``, which works at ``requests`` batches at a time."""

    run: Callable[[Image, Sizes], RawDetections]
    requests: int


def model_files(path: Path) -> list[Path]:
    """Return the files of an exported detector, which `FORMATS` lists."""
    ends = FORMATS[path.suffix].files if path.suffix in FORMATS else []
    files = [path.with_suffix(end) for end in ends]
    absent = [file for file in files if not file.is_file()]
    if absent == files or files[0] in absent:
        names = ', '.join(f'NAME{suffix}' for suffix in FORMATS)
        raise UserError(f'{(files or [path])[0]}: expected an exported detector, given as one of {names}')
    if absent:
        raise UserError(f'{absent[0]}: missing: {path.name} needs it')
    return files


@contextlib.contextmanager
def explain_errors(path: Path) -> Iterator[None]:
    """Raise an engine's error, whose exceptions have no common class, as one line about the file."""
    try:
        yield
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = next((line for line in lines if not line.startswith('Exception from')), type(error).__name__)
        message = f'{path}: cannot be run: {why[:200]}; export it again with ghost-det export'
        raise UserError(message) from None


def open_model(path: Path, threads: int | None) -> OpenVinoModel | OnnxModel | NcnnModel:
    """Open an exported detector; ``threads`` is the number of cores to use, by default all."""
    model_files(path)
    model, package, extra, _ = FORMATS[path.suffix]
    if not find_spec(package):
        raise UserError(f'{path}: needs {package}, which is not installed: pip install "ghost-det[{extra}]"')
    return model(path, threads)


def _check_weights(path: Path, metadata: Metadata) -> None:
    weights = model_files(path)[1]
    if metadata.weights_sha256 and metadata.weights_sha256 != sha256(weights):
        raise UserError(f'{weights}: does not belong to {path}, or is damaged; export both again')


@functools.cache
def openvino_core() -> Any:
    """Return OpenVINO, one for the process: if one is freed, the next signal may end it."""
    import openvino

    # The first two threads that look into a tensor at the same time deadlock over a table made then.
    for kind in (np.uint8, np.float32, np.int64):
        assert openvino.Tensor(np.zeros(1, kind)).data.dtype == kind
    return openvino.Core()


class OpenVinoModel:
    """A model that OpenVINO runs, on the CPU."""

    def __init__(self, path: Path, threads: int | None) -> None:
        self._path, self._threads = path, threads
        with explain_errors(path):
            with path.open('rb') as file:  # OpenVINO tries every reader on another file, and each complains
                if b'<net' not in file.read(4096):
                    raise ValueError('not in the format of OpenVINO')
            self._model = openvino_core().read_model(path)
        text = str(self._model.get_rt_info(KEY).value) if self._model.has_rt_info(KEY) else None
        self.metadata = Metadata.from_json(text, str(path))
        _check_weights(path, self.metadata)

    def engine(self, batch: int, single: bool) -> Engine:
        """Compile the model for at most ``batch`` images, and with ``single`` for one batch at a time."""
        data = self.metadata
        sides = [-1, -1] if data.dynamic else [data.height, data.width]
        # In float32, as some processors would compute in bfloat16, also those layers of INT8 models.
        options: dict[str, Any] = {'INFERENCE_PRECISION_HINT': 'f32', 'PERFORMANCE_HINT': 'THROUGHPUT'}
        if single:
            options |= {'PERFORMANCE_HINT': 'LATENCY', 'NUM_STREAMS': 1}
        if self._threads is not None:
            # Pinned, the threads of all processes on a machine would share its first few cores.
            options |= {'INFERENCE_NUM_THREADS': self._threads, 'ENABLE_CPU_PINNING': False}
        with explain_errors(self._path):
            # Known shapes run faster; a copy, as there may be engines of several batch sizes.
            model = self._model.clone()
            model.reshape({INPUT: [batch, *sides, 3], SIZES: [batch, 2]})
            compiled = openvino_core().compile_model(model, 'CPU', options)
            count = 1 if single else int(compiled.get_property('OPTIMAL_NUMBER_OF_INFER_REQUESTS'))
            requests: SimpleQueue[Any] = SimpleQueue()
            for _ in range(count):
                requests.put(compiled.create_infer_request())

        def run(canvases: Image, sizes: Sizes) -> RawDetections:
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

    def __init__(self, path: Path, threads: int | None) -> None:
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
        # Threads that wait for the next image by spinning take half of a processor from a camera's program.
        options.add_session_config_entry('session.force_spinning_stop', '1')
        with explain_errors(self._path):
            return onnxruntime.InferenceSession(str(self._path), options, ['CPUExecutionProvider'])

    def engine(self, batch: int, single: bool) -> Engine:
        """See `OpenVinoModel`; the batch may have any size."""
        session = self._first if single or self._threads == 1 else self._session(1)

        def maps(image: NDArray[np.float32]) -> list[NDArray[Any]]:
            return [each[0] for each in session.run(None, {MAPS_INPUT: image[None]})]

        def run(canvases: Image, sizes: Sizes) -> RawDetections:
            if self.metadata.strides:
                return find_boxes(maps, canvases, sizes, self.metadata)
            boxes, scores, labels = session.run(list(OUTPUTS), {INPUT: canvases, SIZES: sizes})
            return boxes, scores, labels

        return Engine(run, 1 if single else self._threads)


class NcnnModel:
    """A model that ncnn runs, on the CPU."""

    def __init__(self, path: Path, threads: int | None) -> None:
        self._path, self._threads = path, threads or cores()
        description = model_files(path)[-1]
        self.metadata = Metadata.from_json(description.read_bytes(), str(description))
        _check_weights(path, self.metadata)
        self._first = self._net(self._threads)

    def _net(self, threads: int) -> Any:
        import ncnn

        parameters, weights, _ = model_files(self._path)
        net = ncnn.Net()
        net.opt.num_threads = threads
        with explain_errors(self._path):
            if net.load_param(str(parameters)) or net.load_model(str(weights)):
                raise ValueError('the .param or .bin file is damaged, or belongs to another export')
        return net

    def engine(self, batch: int, single: bool) -> Engine:
        """See `OpenVinoModel`; images of a batch run one after another."""
        import ncnn

        # As with ONNX Runtime. Also, OpenMP's threads are slow for all but the first thread that uses them.
        net = self._first if single or self._threads == 1 else self._net(1)

        def maps(image: NDArray[np.float32]) -> list[NDArray[Any]]:
            extractor = net.create_extractor()
            failed = extractor.input(MAPS_INPUT, ncnn.Mat(image))
            outputs = [extractor.extract(name) for name in map_names(self.metadata.strides)]
            if failed or any(failed for failed, _ in outputs):
                raise ValueError('the .param file does not match its metadata')
            return [np.array(output) for _, output in outputs]

        requests = 1 if single else self._threads
        return Engine(lambda canvases, sizes: find_boxes(maps, canvases, sizes, self.metadata), requests)


class Format(NamedTuple):
    """What runs an exported detector, the package and our extra with it, and the ends of its files' names."""

    model: type[OpenVinoModel | OnnxModel | NcnnModel]
    package: str
    extra: str
    files: list[str]


FORMATS = {
    '.onnx': Format(OnnxModel, 'onnxruntime', 'runtime', ['.onnx']),
    '.xml': Format(OpenVinoModel, 'openvino', 'runtime', ['.xml', '.bin']),
    '.ncnn': Format(NcnnModel, 'ncnn', 'runtime,ncnn', ['.ncnn.param', '.ncnn.bin', '.ncnn.json']),
}
"""By the suffix of its name."""


def _fill(array: NDArray[Any], batch: int) -> NDArray[Any]:
    """Return an array with rows of zeros added, up to a complete batch."""
    if len(array) == batch:
        return array
    return np.pad(array, ((0, batch - len(array)), *[(0, 0)] * (array.ndim - 1)))
