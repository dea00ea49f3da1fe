"""A small VGG: six 3×3 convolutions and max pooling, for images of about 32 px and training times of minutes.

Plain convolutions after Simonyan & Zisserman 2015 (arXiv:1409.1556), with pooling before the batch normalisation, as
Jordan 2024 (arXiv:2404.00498) accelerated them on CIFAR. Unlike there, the head uses both the mean and the maximum of
each feature over the image: a generator's traces are everywhere, its visible errors in one place.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST = 8
"""Least image side in pixels: three poolings by 2 reduce it to one position."""


class Stage(nn.Module):
    """Convolution, max pooling by 2, convolution, each with batch normalisation and GELU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, inputs, H, W]`` to ``[N, outputs, H // 2, W // 2]``."""
        x = F.gelu(self.bn1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.bn2(self.conv2(x)))


class VGG6(nn.Module):
    """Three stages and a linear classifier, for images of at least `SMALLEST` px."""

    def __init__(self, width: int = 64, num_classes: int = 2, in_channels: int = 3) -> None:
        super().__init__()
        widths = (width, 2 * width, 2 * width)
        self.stages = nn.Sequential(*(Stage(i, o) for i, o in zip((in_channels, *widths), widths, strict=False)))
        # Describes the stages in timm's format; `models.layers` reads it.
        self.feature_info = [{"module": f"stages.{k}", "num_chs": channels} for k, channels in enumerate(widths)]
        self.head = nn.Linear(2 * widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images ``[N, in_channels, H, W]`` to logits ``[N, num_classes]``."""
        x = self.stages(x)
        logits: Tensor = self.head(torch.cat([x.amax((2, 3)), x.mean((2, 3))], dim=1))
        return logits

    def get_classifier(self) -> nn.Module:
        """Return the head, which is trained with a frozen backbone; same method as in timm's networks."""
        return self.head
