"""Squeeze-and-excitation whose mean passes its gradient on as one broadcast number per channel.

Torch materialises the gradient of a mean over a map as a full map, in another memory order than channels-last
activations; adding the two is then slow on a CPU. Broadcasting one number per channel gives the same sum.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_BLOCKS = "timm.models._efficientnet_blocks"
"""The timm module with the blocks of its EfficientNet family. It is private; if it moves, timm's blocks stay as is."""


def quicken(module: nn.Module) -> None:
    """Make a module train faster, in place; weights and names do not change.

    The squeeze-and-excitation blocks of timm's EfficientNet family get the mean of this module. SiLUs no longer
    overwrite their input: the backward pass needs it, so torch would have to copy it first.
    """
    theirs = getattr(sys.modules.get(_BLOCKS), "SqueezeExcite", None)  # not loaded: no such block in the module
    ours = None if theirs is None else _quick(theirs)
    for part in module.modules():
        if ours is not None and type(part) is theirs:
            part.__class__ = ours
        elif type(part) is nn.SiLU:
            part.inplace = False


@functools.cache
def _quick(theirs: Any) -> Any:
    """Make the subclass of timm's block that uses the faster mean."""

    class SqueezeExcite(theirs):  # type: ignore[misc]  # timm comes without types
        def forward(self, x: Tensor) -> Tensor:
            gate: Tensor = self.gate(self.conv_expand(self.act1(self.conv_reduce(_Mean.apply(x)))))
            return x * gate

    return SqueezeExcite


class _Mean(torch.autograd.Function):
    """Mean over the map, ``[N, C, 1, 1]``; its gradient is an expanded view, not a full copy."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        return x.mean((2, 3), keepdim=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        each: Tensor = gradient / ctx.shape[2:].numel()
        return each.expand(ctx.shape)
