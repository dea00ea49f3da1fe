"""Scores, intervals, comparisons, calibration and ensemble weights: numpy and scipy only."""
