"""Detectors: the registry of architectures, the ensemble and pretrained weights."""
