"""Detectors in 8-bit integers, where their accuracy allows it: NNCF's quantisation with accuracy control."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ghost_det.data.dataset import DetectionData
from ghost_det.deploy.backends import INPUT, OUTPUTS, SIZES, openvino_core
from ghost_det.deploy.detector import Detections, Detector, detections
from ghost_det.deploy.letterbox import Placement, image_sizes, letterbox
from ghost_det.deploy.metadata import Metadata
from ghost_det.utils.images import read_image
from ghost_det.utils.text import plural

from .accuracy import GroundTruth, detect_all
from .onnx import write_openvino

CALIBRATION = 300
"""Images that ranges are read off."""
MEASURED = 500
"""Images that mAP is measured on, at most, each time."""
RANKED = 32
"""Of them, those that each layer on its own is put back for, to see which are worth it."""

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
    """Write an OpenVINO file in 8-bit integers; layers that cost over ``max_drop`` of mAP stay as they were.

    Ranges are read off the training images of ``data``, where there are any, else off those of ``truth``, on
    which mAP is measured.
    """
    import nncf

    measured = truth.some(range(min(MEASURED, len(truth.images))))
    model = openvino_core().read_model(source)
    model.reshape({INPUT: [1, metadata.height, metadata.width, 3], SIZES: [1, 2]})
    calibration = measured
    if data is not None and data.train is not None:
        calibration = GroundTruth.read(data.train.annotations, data.train.images, metadata.classes)
    files = [path for _, path in calibration.images]
    files = files[:: max(1, len(files) // CALIBRATION)][:CALIBRATION]

    def measure(compiled: Any, places: Iterable[int]) -> tuple[float, list[float]]:
        some = measured.some(list(places))
        found = _detect(compiled, some, metadata)
        each = [some.some([place]).evaluate([one]).figures['mAP'] for place, one in enumerate(found)]
        return some.evaluate(found).figures['mAP'], each

    yield f'quantising; where it costs over {max_drop:g} of mAP, layers are put back, in minutes or hours'
    plain = measured.evaluate(detect_all(Detector(source), measured)).figures['mAP']
    log = io.StringIO()
    with _listening(log):
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
    final = measured.evaluate(detect_all(Detector(out), measured)).figures['mAP']
    count = sum(operation.get_type_name() == 'FakeQuantize' for operation in small.get_ops())
    back = [line for line in log.getvalue().splitlines() if 'revert' in line.lower()]
    change = f'{plain:.4f} in 32 bits, {final:.4f} in 8 ({final - plain:+.4f})'
    yield f'mAP of {plural(len(measured.images), "image")}: {change}'
    yield f'{count} quantisers; ' + (
        f'put back for accuracy: {"; ".join(back[:5])}' if back else 'none put back'
    )
    if plain - final > max_drop:
        yield f'warning: the drop is larger than --max-drop {max_drop:g}'


def _inputs(path: Path, metadata: Metadata) -> tuple[dict[str, Any], Placement]:
    canvases, places = letterbox([read_image(path)], metadata)
    return {INPUT: canvases, SIZES: image_sizes(canvases, places, metadata)}, places[0]


def _detect(compiled: Any, truth: GroundTruth, metadata: Metadata) -> list[Detections]:
    request = compiled.create_infer_request()
    found = []
    for _, path in truth.images:
        inputs, at = _inputs(path, metadata)
        request.infer(inputs)
        boxes, scores, labels = (request.get_tensor(name).data[0] for name in OUTPUTS)
        found.append(detections(boxes, scores, labels, at))
    return found


@contextlib.contextmanager
def _listening(to: io.StringIO) -> Iterator[None]:
    """Have NNCF's messages and bars in ``to`` instead of on the console."""
    logger = logging.getLogger('nncf')
    handlers, propagate = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [logging.StreamHandler(to)], False
    try:
        with contextlib.redirect_stdout(to):
            yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate


def quantization_settings(model: Any) -> dict[str, Any]:
    """Return the arguments of NNCF's functions with which quantising an OpenVINO model of a detector pays.

    All that follows the last convolutions stays in floating point, as boxes are computed there. Activations
    have symmetric ranges. Nothing inside of the network is left out: squeeze-excite in floating point makes a
    ghost network a tenth slower (docs/results.md).
    """
    import nncf

    return dict(
        preset=nncf.QuantizationPreset.PERFORMANCE,
        ignored_scope=nncf.IgnoredScope(names=_behind_convolutions(model), validate=False),
    )


def _behind_convolutions(model: Any) -> list[str]:
    """Return the operations whose results reach no convolution."""
    reaching: set[str] = set()
    found = []
    for operation in reversed(model.get_ordered_ops()):
        name, kind = operation.get_friendly_name(), operation.get_type_name()
        if kind in _CONVOLVING or name in reaching:
            reaching.update(source.get_node().get_friendly_name() for source in operation.input_values())
        elif kind not in _OUTER:
            found.append(name)
    return found
