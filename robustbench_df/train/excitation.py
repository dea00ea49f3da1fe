"""Squeeze-and-excitation whose mean passes its gradient on as one number per channel.

Torch writes the gradient of a mean over a map out as a map, and row by row where the activations are channels last, so
that adding the two is slow: a tenth of a step of EfficientNet-B0 on a CPU. A broadcast number gives the same sum.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models._efficientnet_blocks import SqueezeExcite as _SqueezeExcite
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def quicken(module: nn.Module) -> None:
    """Let a module's blocks of timm's EfficientNet family learn faster, in place; weights and names stay as they are.

    Its SiLUs no longer overwrite their input: backwards needs it, so torch copies it first.
    """
    for part in module.modules():
        if type(part) is _SqueezeExcite:
            part.__class__ = SqueezeExcite
        elif type(part) is nn.SiLU:
            part.inplace = False


class SqueezeExcite(_SqueezeExcite):
    """timm's squeeze-and-excitation, with the mean of this module."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` gated, same shape ``[N, C, H, W]``."""
        gate: Tensor = self.gate(self.conv_expand(self.act1(self.conv_reduce(_Mean.apply(x)))))
        return x * gate


class _Mean(torch.autograd.Function):
    """``[N, C, 1, 1]``, the mean over the map; its gradient is expanded, not written out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return x.mean((2, 3), keepdim=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        each: Tensor = gradient / ctx.shape[2:].numel()
        return each.expand(ctx.shape)
