"""Detectors as files that run without this package: ONNX, torch's exported program, static int8 (extra ``export``)."""
