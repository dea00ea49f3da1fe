"""Corruptions: what happens to an image between the camera and the detector."""
