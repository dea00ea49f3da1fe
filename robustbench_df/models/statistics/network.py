"""A detector on image statistics of JPEG blocks, scene and texture, classified through Gaussian kernels.

Steganalysis decides by how often small patterns occur, not by where (Fridrich & Kodovsky 2012,
doi:10.1109/TIFS.2012.2190402), and before neural networks, scenes were recognised from a few hundred numbers. With a
few thousand images, such statistics under kernels work better than a small network that has to learn its own features.
Everything is differentiable, so that attacks get gradients.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from robustbench_df.models.frontend import YCC
from robustbench_df.models.statistics.blocks import Blocks, Places
from robustbench_df.models.statistics.family import Views
from robustbench_df.models.statistics.scene import Colours, Gist, Layout, Orientations
from robustbench_df.models.statistics.texture import Correlations, HighPass, Neighbours, Patterns, Wavelets

_FAMILIES = (
    Colours,
    Layout,
    Orientations,
    Gist,
    Blocks,
    Places,
    Patterns,
    Neighbours,
    Correlations,
    Wavelets,
)

_HEAD_STD = 1e-3
"""Weight deviation of a fresh classifier: initial weights stay small next to what a few hundred steps learn."""
_LEAST_STD = 1e-3
"""Least standard deviation to divide by, so that statistics that hardly vary are not amplified without bound."""
_CPU_PIXELS, _PIXELS = 64 * 32 * 32, 1024 * 32 * 32
"""Most pixels processed together on a CPU, and on an accelerator, which is slow at few pixels. A gradient needs some
11 KB per pixel, so 64 images of 224 px would take 35 GB."""


class Standardize(nn.Module):
    """Scale each statistic to zero mean and unit variance over all images seen in training, ``[N, size]``.

    Unlike batch normalisation, it computes the same in training as in evaluation. The statistics do not change while
    the network learns, so there is no drift to follow, and the moments of a single batch would only add noise. Attacked
    images of phase 2 are counted too.
    """

    seen: Tensor
    mean: Tensor
    square: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("square", torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """Return the standardised statistics; in training, ``x`` first updates the moments."""
        if self.training:
            self._count(x.detach())
        deviation = (self.square - self.mean.square()).clamp(min=_LEAST_STD**2).sqrt()
        return (x - self.mean) / deviation

    def _count(self, x: Tensor) -> None:
        self.seen += len(x)
        share = len(x) / self.seen
        self.mean.lerp_(x.mean(0), share)
        self.square.lerp_(x.square().mean(0), share)


class FourierFeatures(nn.Module):
    """Random features cos(Wx + b) whose inner products approximate a Gaussian kernel (Rahimi & Recht 2007).

    The kernel is ``exp(-|x - y|² / 2d)`` for d inputs, which suits inputs of unit variance. W and b are not trained:
    trained ones overfit a few thousand images.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(outputs, inputs) / math.sqrt(inputs))
        self.register_buffer("bias", torch.rand(outputs) * 2 * math.pi)

    def forward(self, x: Tensor) -> Tensor:
        """Return features ``[N, outputs]``."""
        return torch.cos(F.linear(x, self.weight, self.bias))


class StatisticsNet(nn.Module):
    """Map images ``[N, 3, H, W]`` in [0, 1], of at least 8 px, to logits ``[N, 2]``.

    Each family of statistics has its own kernel, and the kernels are added, so that an uninformative family does not
    mask the others. A CAM can only be computed from the residuals; it shows no statistic that does not use them.
    """

    to_ycc: Tensor

    def __init__(self, features: int = 2048) -> None:
        super().__init__()
        self.register_buffer("to_ycc", 255 * torch.tensor(YCC)[:, :, None, None], persistent=False)
        self.residuals = HighPass()
        self.feature_info = [{"module": "residuals", "num_chs": len(YCC) * HighPass.CHANNELS}]
        self.families = nn.ModuleList(family() for family in _FAMILIES)
        self.sizes = [family.SIZE for family in _FAMILIES]
        self.scale = Standardize(sum(self.sizes))
        self.kernels = nn.ModuleList(FourierFeatures(size, features) for size in self.sizes)
        self.head = nn.Linear(features * len(self.sizes), 2)
        nn.init.normal_(self.head.weight, std=_HEAD_STD)

    def statistics(self, x: Tensor) -> Tensor:
        """Return all statistics, float32 ``[N, 2986]``."""
        ycc = F.conv2d(x, self.to_ycc)
        views = Views(x, ycc, self.residuals(ycc))
        images = max(1, (_CPU_PIXELS if x.device.type == "cpu" else _PIXELS) // x[0, 0].numel())
        if torch.compiler.is_compiling() or len(x) <= images:  # an exported graph must take any number of images
            return self._of(*views)
        # Process few images at a time and keep no activations: backward recomputes them. Nothing is random here.
        parts = zip(*(view.split(images) for view in views), strict=True)
        again = partial(checkpoint, self._of, use_reentrant=False, preserve_rng_state=False)
        return torch.cat([(again if x.requires_grad else self._of)(*part) for part in parts])

    def _of(self, *views: Tensor) -> Tensor:
        return torch.cat([family(Views(*views)) for family in self.families], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, always computed in float32: bf16 would blur the grey levels that are counted."""
        with torch.autocast(x.device.type, enabled=False):
            families = self.scale(self.statistics(x.float())).split(self.sizes, dim=1)
            seen = [kernel(family) for kernel, family in zip(self.kernels, families, strict=True)]
            logits: Tensor = self.head(torch.cat(seen, dim=1))
            return logits

    def get_classifier(self) -> tuple[nn.Module, ...]:
        """Return what is trained with a frozen backbone, as in timm's networks: here all that is ever trained."""
        return self.scale, self.head
