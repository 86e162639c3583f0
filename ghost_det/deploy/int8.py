"""What NNCF is told of a detector's graph."""

from __future__ import annotations

from typing import Any


def quantization_settings(model: Any) -> dict[str, Any]:
    """Return the settings of NNCF's quantisation for a graph."""
    import nncf

    return dict(preset=nncf.QuantizationPreset.MIXED)
