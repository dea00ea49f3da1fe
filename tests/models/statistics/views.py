"""Views of images for the families' tests."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_df.models.frontend import YCC
from robustbench_df.models.statistics.family import Views
from robustbench_df.models.statistics.texture import HighPass


def views(rgb: Tensor) -> Views:
    """Look at ``[N, 3, H, W]`` in [0, 1] as the network does."""
    ycc = F.conv2d(rgb, 255 * torch.tensor(YCC)[:, :, None, None])
    return Views(rgb, ycc, HighPass()(ycc))


def grey(luma: Tensor) -> Views:
    """Look at a grey image, ``[N, 1, H, W]`` in grey levels."""
    return views(luma.expand(-1, 3, -1, -1) / 255)
