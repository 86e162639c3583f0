"""What NNCF is told of a detector's graph."""

from __future__ import annotations

from typing import Any

_CONVOLVING = ('Convolution', 'GroupConvolution', 'ConvolutionBackpropData', 'MatMul')
_OUTER = ('Constant', 'Parameter', 'Result')


def quantization_settings(model: Any) -> dict[str, Any]:
    """Return the settings with which NNCF's quantisation of a detector pays.

    Left in floating point are squeeze-excite's vectors, which are too short to gain anything and whose gates
    weigh whole maps, and all that follows the last convolutions, where boxes are computed. Activations have
    symmetric ranges, which are the fastest. Measured gains are in docs/deploy-speed.md.

    Args:
        model: an ``openvino.Model``, of any source.

    Returns:
        Arguments of ``nncf.quantize`` and of ``nncf.quantize_with_accuracy_control``.
    """
    import nncf

    names = [*_vectors(model), *_behind_convolutions(model)]
    return dict(
        preset=nncf.QuantizationPreset.PERFORMANCE,
        ignored_scope=nncf.IgnoredScope(names=list(dict.fromkeys(names)), validate=False),
    )


def _vectors(model: Any) -> list[str]:
    """Return the operations that give one cell for each channel: between a mean and the gates."""
    found = []
    for operation in model.get_ordered_ops():
        if operation.get_type_name() in _OUTER or not operation.get_output_size():
            continue
        shape = operation.get_output_partial_shape(0)
        sides = list(shape)[2:] if not shape.rank.is_dynamic and len(shape) == 4 else []
        if sides and all(side.is_static and side.get_length() == 1 for side in sides):
            found.append(operation.get_friendly_name())
    return found


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
