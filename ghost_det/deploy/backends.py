"""OpenVINO and ONNX Runtime behind one interface: a file, opened, makes engines; an engine runs batches."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ghost_det.errors import UserError
from ghost_det.utils.images import Image

from .metadata import KEY, Metadata

INPUT, SIZES = 'images', 'sizes'
OUTPUTS = ('boxes', 'scores', 'labels')
RUNTIME = 'pip install "ghost-det[runtime]"'

Sizes = NDArray[np.int64]
"""Height and width of each image on its canvas, ``[N, 2]``."""
Raw = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]
"""What the graph gives of a batch: boxes ``[N, K, 4]``, scores ``[N, K]``, labels ``[N, K]``."""


class Engine(NamedTuple):
    """A model made ready to run.

    Attributes:
        run: canvases ``[N, H, W, 3]`` and the images' sizes on them ``[N, 2]`` to `Raw`; may be called by
            several threads at a time.
        requests: batches that it works at, at a time.
    """

    run: Callable[[Image, Sizes], Raw]
    requests: int


class Model(Protocol):
    """A file, opened and found to be an exported detector."""

    metadata: Metadata

    def engine(self, batch: int, streams: int | None) -> Engine:
        """Make the model ready.

        Args:
            batch: images at a time, at most.
            streams: batches at a time, which share the cores; ``None`` has the engine choose.
        """


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def open_model(path: Path, device: str, threads: int | None) -> Model:
    """Open an exported detector.

    Args:
        path: ``NAME.onnx``, or ``NAME.xml`` beside its ``NAME.bin``.
        device: ``'CPU'``; with OpenVINO, also others that it has.
        threads: of all engines' work; ``None`` for one a core.

    Raises:
        UserError: it is no such file, or damaged, or was not exported by this project; or the package that
            runs it is not installed.
    """
    if path.suffix not in ('.onnx', '.xml'):
        raise UserError(f'{path}: an exported detector is wanted, NAME.onnx or NAME.xml, of ghost-det export')
    for file in [path] if path.suffix == '.onnx' else [path, path.with_suffix('.bin')]:
        if not file.is_file():
            found = 'a folder' if file.is_dir() else 'something else' if file.exists() else 'nothing'
            beside = f'; {path.name} is half of a detector' if file != path else ''
            raise UserError(f'{file}: a file is wanted, found {found}{beside}')
        if file.stat().st_size == 0:
            raise UserError(f'{file}: an empty file; export the detector again with ghost-det export')
    if path.suffix == '.xml' and not _is_openvino(path):
        raise UserError(f"{path}: not OpenVINO's; export the detector with ghost-det export")
    has = {name: find_spec(name) is not None for name in ('openvino', 'onnxruntime')}
    if path.suffix == '.onnx' and has['onnxruntime']:
        return OnnxModel(path, device, threads)
    if has['openvino']:  # which reads both
        return OpenVinoModel(path, device, threads)
    needed = 'onnxruntime' if path.suffix == '.onnx' else 'openvino'
    raise UserError(f'{path}: needs {needed}, which is not installed: {RUNTIME}')


def _is_openvino(path: Path) -> bool:
    """Tell whether a file begins as OpenVINO's do, which of others tries every reader, and each complains."""
    with path.open('rb') as file:
        return b'<net' in file.read(4096)


@functools.cache
def openvino_core() -> Any:
    """Return OpenVINO, one for the whole process.

    Its CPU plugin gives the thread that first uses it a stack of its own for signal handlers, and frees that
    with the plugin, which may be another thread's doing: the next signal then ends the process.

    And two threads that are the first to look into a tensor wait for each other for ever: one has the lock of
    a table that is made then and wants Python's, the other the other way round. Here one looks before.
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
        if device not in here and device not in {name.partition('.')[0] for name in here}:
            raise UserError(f'device {device}: OpenVINO has {", ".join(here)} here')
        try:
            self._model = self._core.read_model(path)
        except Exception as error:  # RuntimeError, and what its bindings make of others
            raise unusable(path, error) from None
        # OpenVINO puts what an ONNX file says of itself elsewhere than its own files have it.
        place = next((p for p in ([KEY], ['framework', KEY]) if self._model.has_rt_info(p)), None)
        self.metadata = _metadata(None if place is None else str(self._model.get_rt_info(place).value), path)
        inputs, outputs = (
            {
                name: [each.element_type.to_string(), *_sizes(each.partial_shape)]
                for each in ports
                for name in each.names
            }
            for ports in (self._model.inputs, self._model.outputs)
        )
        _check_ports(inputs, outputs, self.metadata, path)

    def engine(self, batch: int, streams: int | None) -> Engine:
        """See `Model`."""
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
        # Some processors would compute in bfloat16, even what is beside the integers of INT8.
        options['INFERENCE_PRECISION_HINT'] = 'f32'
        try:
            # Known shapes run faster than any; a copy, as engines of several batch sizes live side by side.
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
            if count < batch:
                canvases, sizes = (_filled(array, batch) for array in (canvases, sizes))
            request = requests.get()
            try:
                request.infer({INPUT: canvases, SIZES: sizes})
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
        session = self._session(self._threads)
        self.metadata = _metadata(session.get_modelmeta().custom_metadata_map.get(KEY), path)
        inputs, outputs = (
            {
                each.name: [each.type, *(n if isinstance(n, int) else None for n in each.shape)]
                for each in ports
            }
            for ports in (session.get_inputs(), session.get_outputs())
        )
        _check_ports(inputs, outputs, self.metadata, path)
        self._first: Any = session

    def _session(self, threads: int) -> Any:
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
        """See `Model`; any batch is taken."""
        count = streams or self._threads
        session = self._first if count == 1 else self._session(max(1, self._threads // count))

        def run(canvases: Image, sizes: Sizes) -> Raw:
            boxes, scores, labels = session.run(list(OUTPUTS), {INPUT: canvases, SIZES: sizes})
            return boxes, scores, labels

        return Engine(run, count)


def _metadata(text: str | None, path: Path) -> Metadata:
    if text is None:
        raise UserError(
            f'{path}: was not exported by ghost-det export: it has no {KEY} metadata, which say how '
            'images go in and what comes out'
        )
    return Metadata.from_json(text, str(path))


def _sizes(shape: Any) -> list[int | None]:
    if shape.rank.is_dynamic:
        return []
    return [None if each.is_dynamic else each.get_length() for each in shape]


def _check_ports(
    inputs: dict[str, list[Any]], outputs: dict[str, list[Any]], metadata: Metadata, path: Path
) -> None:
    """Stop at a graph that is not as the metadata say.

    Args:
        inputs: by name, the type and then the size of each dimension, ``None`` for any.
        outputs: likewise.
        metadata: of the file.
        path: of the file.
    """
    sides = [None, None] if metadata.dynamic else [metadata.height, metadata.width]
    floats, integers = ('f32', 'tensor(float)'), ('i64', 'tensor(int64)')
    kind, *shape = inputs.get(INPUT, [None])
    sound = kind in ('u8', 'tensor(uint8)') and shape[1:] == [*sides, 3] and len(inputs) == 2
    kind, *shape = inputs.get(SIZES, [None])
    sound = sound and kind in integers and shape[1:] == [2]
    for name, kinds, rank in zip(OUTPUTS, (floats, floats, integers), (3, 2, 2)):
        kind, *shape = outputs.get(name, [None])
        sound = sound and kind in kinds and len(shape) == rank and (name != 'boxes' or shape[2] in (4, None))
    if not sound:
        raise UserError(
            f"{path}: expected a graph from '{INPUT}', uint8 {[None, *sides, 3]}, and '{SIZES}', int64 "
            f'{[None, 2]}, to {", ".join(OUTPUTS)}, got {str(inputs)[:120]} and outputs {str(outputs)[:99]}; '
            f'export it again with ghost-det export'
        )


def _filled(array: NDArray[Any], batch: int) -> NDArray[Any]:
    """Return an array with rows of zeros added, up to a whole batch."""
    return np.pad(array, ((0, batch - len(array)), *[(0, 0)] * (array.ndim - 1)))


def unusable(path: Path, error: Exception) -> UserError:
    """Return the error of an engine as the fault of the file that it is."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    why = next((line for line in lines if not line.startswith('Exception from')), type(error).__name__)
    return UserError(f'{path}: cannot be run: {why[:200]}; export it again with ghost-det export')
