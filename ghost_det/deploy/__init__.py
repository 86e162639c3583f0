"""Exported detectors, in ONNX or OpenVINO format, run without torch."""

from .detector import Detections, Detector
from .metadata import Metadata

__all__ = ['Detections', 'Detector', 'Metadata']
