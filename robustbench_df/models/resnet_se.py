"""ResNet-SE: a residual network with squeeze-and-excitation for small images, trained from scratch.

Residual blocks after He et al. 2016 (arXiv:1512.03385), channel attention after Hu et al. 2018 (arXiv:1709.01507,
reduction 16). Width 64 gives 11.2 M parameters; width 24 keeps the shape in 1.6 M.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from the channel means."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` gated, same shape ``[N, C, H, W]``."""
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3))))))
        return x * gate[:, :, None, None]


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with batch normalisation and a projected shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, inputs, H, W]`` to ``[N, outputs, H/stride, W/stride]``."""
        out = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNetSE(nn.Module):
    """Three stages (2 residual blocks + SE, stride 2 each) between a 3×3 stem and a two-layer head.

    ``forward`` maps normalised ``[N, in_channels, H, W]`` to logits ``[N, 2]``; 32×32 shrinks to 16, 8, 4. Without
    ``small_stem``, the stem first reduces the side by 4, as in ResNets for ImageNet: otherwise 224 px images would cost
    16 times as much.
    """

    def __init__(self, width: int = 64, num_classes: int = 2, in_channels: int = 3, *, small_stem: bool = True) -> None:
        super().__init__()
        first = (3, 1, 1) if small_stem else (7, 2, 3)  # kernel, stride, padding
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, width, *first, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        if not small_stem:
            self.stem.append(nn.MaxPool2d(3, 2, 1))
        stages = []
        channels = width
        for _ in range(3):
            stages.append(
                nn.Sequential(
                    ResidualBlock(channels, 2 * channels, 2),
                    ResidualBlock(2 * channels, 2 * channels, 1),
                    SqueezeExcite(2 * channels),
                )
            )
            channels *= 2
        self.stages = nn.Sequential(*stages)
        # Describes the stages in timm's format; `models.layers` reads it.
        self.feature_info = [{"module": f"stages.{k}", "num_chs": width * 2 ** (k + 1)} for k in range(len(stages))]
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.4),
            nn.Linear(channels, channels // 2),
            nn.ReLU(inplace=True),
            nn.Dropout(0.3),
            nn.Linear(channels // 2, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images ``[N, 3, H, W]`` to logits ``[N, num_classes]``."""
        logits: Tensor = self.head(self.stages(self.stem(x)))
        return logits

    def get_classifier(self) -> nn.Module:
        """Return the head, which is trained with a frozen backbone; same method as in timm's networks."""
        return self.head
