"""Detectors: the registry, the ensemble and checkpoints."""
