"""A detector on image statistics (JPEG blocks, scene, texture) under Gaussian kernels."""

from robustbench_df.models.statistics.network import StatisticsNet

__all__ = ["StatisticsNet"]
