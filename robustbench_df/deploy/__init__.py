"""Detectors as files that run elsewhere: ONNX, torch's exported program, and static int8. The extra ``export``."""
