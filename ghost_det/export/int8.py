"""What NNCF is told of a detector's graph."""

from __future__ import annotations

from typing import Any

_CONVOLVING = ('Convolution', 'GroupConvolution', 'ConvolutionBackpropData', 'MatMul')
_OUTER = ('Constant', 'Parameter', 'Result')


def quantization_settings(model: Any) -> dict[str, Any]:
    """Return the settings with which NNCF's quantisation of a detector pays.

    All that follows the last convolutions stays in floating point, as boxes are computed there. Activations
    have symmetric ranges. Nothing inside of the network is left out: squeeze-excite in floating point makes a
    ghost network a tenth slower (docs/deploy-speed.md).

    Args:
        model: an ``openvino.Model``, of any source.

    Returns:
        Arguments of ``nncf.quantize`` and of ``nncf.quantize_with_accuracy_control``.
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
