"""Statistics of images as a detector: JPEG's blocks, scenes and textures under kernels."""

from robustbench_df.models.statistics.network import StatisticsNet

__all__ = ["StatisticsNet"]
