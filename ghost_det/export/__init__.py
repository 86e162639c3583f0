"""Trained detectors as ONNX and OpenVINO files."""
