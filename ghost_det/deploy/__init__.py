"""Detectors in ONNX or OpenVINO format, run without torch: `Detector` finds, `Metadata` describes."""

import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')  # else it reports to its makers

if TYPE_CHECKING:
    from .metadata import Metadata
    from .runtime import Detections, Detector

__all__ = ['Detections', 'Detector', 'Metadata']


def __getattr__(name: str) -> Any:
    # Whoever exports needs the metadata, but neither OpenCV nor an engine.
    if name == 'Metadata':
        from .metadata import Metadata

        return Metadata
    if name in __all__:
        from . import runtime

        return getattr(runtime, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
