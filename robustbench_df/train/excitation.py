"""Squeeze-and-excitation whose mean passes its gradient on as one number per channel.

Torch writes the gradient of a mean over a map out as a map, and in another order than activations that are channels
last, so that adding the two is slow on a CPU. A number that is broadcast gives the same sum.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_BLOCKS = "timm.models._efficientnet_blocks"
"""Where timm keeps the blocks of its EfficientNet family. A private place: where it has moved, nothing is quickened."""


def quicken(module: nn.Module) -> None:
    """Let a module learn faster, in place; weights and names stay as they are.

    Squeeze-and-excitation of timm's EfficientNet family gets the mean of this module. SiLUs no longer overwrite their
    input: backwards needs it, so torch would copy it first.
    """
    theirs = getattr(sys.modules.get(_BLOCKS), "SqueezeExcite", None)  # not loaded: then the module has none
    ours = None if theirs is None else _quick(theirs)
    for part in module.modules():
        if ours is not None and type(part) is theirs:
            part.__class__ = ours
        elif type(part) is nn.SiLU:
            part.inplace = False


@functools.cache
def _quick(theirs: Any) -> Any:
    """Make the class of quick blocks."""

    class SqueezeExcite(theirs):  # type: ignore[misc]  # timm comes without types
        def forward(self, x: Tensor) -> Tensor:
            gate: Tensor = self.gate(self.conv_expand(self.act1(self.conv_reduce(_Mean.apply(x)))))
            return x * gate

    return SqueezeExcite


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
