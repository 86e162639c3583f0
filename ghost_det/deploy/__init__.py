"""Exported detectors, in ONNX or OpenVINO format, run without torch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .detector import Detections, Detector
    from .metadata import Metadata

__all__ = ['Detections', 'Detector', 'Metadata']


def __getattr__(name: str) -> Any:
    # An export needs the metadata, but neither OpenCV nor an engine.
    if name == 'Metadata':
        from .metadata import Metadata

        return Metadata
    if name in __all__:
        from . import detector as runtime

        return getattr(runtime, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
