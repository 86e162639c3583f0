"""Exported detectors, in ONNX or OpenVINO format, run without torch."""

from .detector import Detections, Detector
from .metadata import Metadata
from .tiles import TiledDetector

__all__ = ['Detections', 'Detector', 'Metadata', 'TiledDetector']
