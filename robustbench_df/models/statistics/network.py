"""A detector of statistics: blocks, scenes and textures, summed up over the image and told apart by kernels.

Steganalysis decides by how often small patterns occur, not by where (Fridrich & Kodovsky 2012,
doi:10.1109/TIFS.2012.2190402), and scenes were recognised by a few hundred numbers before networks were. With a few
thousand images such statistics under kernels are better than a small network that has to learn what to look at.
All of it can be differentiated, so that attacks find gradients.
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
"""Of a fresh classifier: what is drawn at random stays small beside what is learnt in a few hundred steps."""
_LEAST_STD = 1e-3
"""Least deviation that is divided by: what hardly ever changes is not blown up without bound."""
_CPU_PIXELS, _PIXELS = 64 * 32 * 32, 1024 * 32 * 32
"""Looked at together on a CPU, and on an accelerator, which is slow at a few: a gradient needs some 11 KB a pixel, so
that 64 images of 224 px would take 35 GB."""


class Standardize(nn.Module):
    """Bring each statistic to zero mean and unit variance over all images seen in training, ``[N, size]``.

    Unlike batch normalisation it computes the same in training as afterwards: statistics do not change while the
    network learns, so there is nothing to follow, and the moments of a batch would only be noise. Phase 2 counts its
    attacked images too.
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
        """Return the standardised statistics; in training those of ``x`` are counted first."""
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
    """cos(Wx + b), drawn so that their products are a Gaussian kernel (Rahimi & Recht 2007).

    The kernel is ``exp(-|x - y|² / 2d)`` of d inputs, which suits inputs of unit variance. W and b stay as drawn:
    learnt ones fit a few thousand images to the last and new ones less well.
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
    """Map images ``[N, 3, H, W]`` in [0, 1], 8 px and more, to logits ``[N, 2]``.

    The kernels of the families of statistics are added up: a family that says nothing does not drown the others.
    A CAM can only be read from the residuals; it does not show what is not computed from them.
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
        if torch.compiler.is_compiling() or len(x) <= images:  # a graph is of any number of images
            return self._of(*views)
        # Few images at a time, and nothing kept of them: a gradient computes them once more. Nothing in it is random.
        parts = zip(*(view.split(images) for view in views), strict=True)
        again = partial(checkpoint, self._of, use_reentrant=False, preserve_rng_state=False)
        return torch.cat([(again if x.requires_grad else self._of)(*part) for part in parts])

    def _of(self, *views: Tensor) -> Tensor:
        return torch.cat([family(Views(*views)) for family in self.families], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits; always in float32, for bf16 would blur the grey levels that are counted."""
        with torch.autocast(x.device.type, enabled=False):
            families = self.scale(self.statistics(x.float())).split(self.sizes, dim=1)
            seen = [kernel(family) for kernel, family in zip(self.kernels, families, strict=True)]
            logits: Tensor = self.head(torch.cat(seen, dim=1))
            return logits

    def get_classifier(self) -> tuple[nn.Module, ...]:
        """Return what learns under a frozen backbone, as timm's networks do: here all that ever does."""
        return self.scale, self.head
