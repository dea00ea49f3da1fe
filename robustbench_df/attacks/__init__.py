"""Attacks: plain functions over a `Detector`, inputs in [0, 1]."""
