"""Detectors in 8-bit integers, where their accuracy allows it: NNCF's quantization with accuracy control."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ghost_det.data.dataset import DetectionData
from ghost_det.deploy.backends import INPUT, OUTPUTS, SIZES, openvino_core
from ghost_det.deploy.detector import Detector, detections
from ghost_det.deploy.letterbox import Placement, image_sizes, letterbox
from ghost_det.deploy.metadata import Metadata
from ghost_det.errors import UserError
from ghost_det.utils.images import read_image
from ghost_det.utils.text import plural

from .accuracy import GroundTruth
from .onnx import quiet, write_openvino

CALIBRATION = 300  # images that ranges are measured on
MEASURED = 500  # images that mAP is measured on, at most, each time
RANKED = 32  # of them, those that rank the layers by what each costs
_CONVOLVING = ('Convolution', 'GroupConvolution', 'ConvolutionBackpropData', 'MatMul')
_OUTER = ('Constant', 'Parameter', 'Result')


def quantize(
    source: Path,
    out: Path,
    metadata: Metadata,
    data: DetectionData | None,
    truth: GroundTruth,
    max_drop: float,
) -> Iterator[str]:
    """Write an OpenVINO file in 8-bit integers; layers that cost over ``max_drop`` of mAP stay as they are.

    Ranges are measured on the training images of ``data``, if there are any, else on those of ``truth``.
    """
    import nncf

    measured = truth.select(pick_evenly(len(truth.images), MEASURED))
    model = openvino_core().read_model(source)
    model.reshape({INPUT: [1, metadata.height, metadata.width, 3], SIZES: [1, 2]})
    calibration = measured
    if data is not None and data.train is not None:
        calibration = GroundTruth.read(data.train.annotations, data.train.images, metadata.classes)
    files = [path for _, path in calibration.images]
    files = [files[place] for place in pick_evenly(len(files), CALIBRATION)]

    def measure(compiled: Any, places: Iterable[int]) -> tuple[float, list[float]]:
        some, request, found = measured.select(list(places)), compiled.create_infer_request(), []
        for _, path in some.images:
            inputs, at = _inputs(path, metadata)
            request.infer(inputs)
            boxes, scores, labels = (request.get_tensor(name).data[0] for name in OUTPUTS)
            found.append(detections(boxes, scores, labels, at))
        each = [some.select([place]).mean_precision([one]) for place, one in enumerate(found)]
        return some.mean_precision(found), each

    yield f'quantizing; layers that cost over {max_drop:g} of mAP return to 32 bits; may take hours'
    before = measured.mean_precision(measured.detect(Detector(source)))
    if before < 0:
        raise UserError(f'--int8: no object in {plural(len(measured.images), "image")} to measure mAP on')
    with quiet():
        small = nncf.quantize_with_accuracy_control(
            model,
            nncf.Dataset(files, lambda path: _inputs(path, metadata)[0]),
            nncf.Dataset(list(range(len(measured.images)))),
            validation_fn=measure,
            max_drop=max_drop,
            drop_type=nncf.DropType.ABSOLUTE,
            advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(
                ranking_subset_size=RANKED
            ),
            **quantization_settings(model),
        )
    write_openvino(small, out, metadata)
    after = measured.mean_precision(measured.detect(Detector(out)))
    count = sum(operation.get_type_name() == 'FakeQuantize' for operation in small.get_ops())
    yield (
        f'mAP of {plural(len(measured.images), "image")}: {before:.4f} in 32 bits, {after:.4f} in 8 '
        f'({after - before:+.4f}), with {plural(count, "quantizer")}'
    )
    if before - after > max_drop:
        yield f'warning: the drop is larger than --max-drop {max_drop:g}'


def pick_evenly(count: int, most: int) -> list[int]:
    """Return at most so many places of a list, from all of it: it may be sorted by class."""
    return [place * count // min(most, count) for place in range(min(most, count))]


def _inputs(path: Path, metadata: Metadata) -> tuple[dict[str, Any], Placement]:
    canvases, places = letterbox([read_image(path)], metadata)
    return {INPUT: canvases, SIZES: image_sizes(canvases, places, metadata)}, places[0]


def quantization_settings(model: Any) -> dict[str, Any]:
    """Return arguments of NNCF's functions that suit a detector in OpenVINO.

    Operations whose results reach no convolution, which compute boxes, stay in floating point. Activations
    have symmetric ranges. Squeeze-excite is quantized, too.
    """
    import nncf

    reaching: set[str] = set()
    behind = []
    for operation in reversed(model.get_ordered_ops()):
        name, kind = operation.get_friendly_name(), operation.get_type_name()
        if kind in _CONVOLVING or name in reaching:
            reaching.update(source.get_node().get_friendly_name() for source in operation.input_values())
        elif kind not in _OUTER:
            behind.append(name)
    return dict(
        preset=nncf.QuantizationPreset.PERFORMANCE,
        ignored_scope=nncf.IgnoredScope(names=behind, validate=False),
    )
