"""Convolutions whose gradients avoid oneDNN's slow paths on a CPU.

In oneDNN 3 (torch 2.14) each gradient of a convolution takes about as long as the forward pass. There are three
exceptions, on the small maps and in the bfloat16 that detectors are trained with (experiments/bench_gradients):

- the weight gradient of a depthwise convolution whose kernel is 5×5 or more, or larger than its map: up to 27 times
  the forward pass in fp32, up to 77 times in bfloat16;
- the input gradient of a strided depthwise convolution in bfloat16: together with the weight gradient, up to 133 times
  the forward pass;
- every pass of a dense convolution on maps of 4×4 or smaller in bfloat16: about half the speed of a matrix product.

This module computes the slow weight gradients and dense passes as matrix products, and the slow input gradients in
fp32. The library's own convolution runs where no gradient is needed, where nothing is slow, and in the forward pass of
every depthwise convolution.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_SMALL = 16
"""Largest number of output positions at which a dense convolution is slower in oneDNN than as a matrix product."""

_PAIRS = {torch.bfloat16: 256 * 256, torch.float32: 64 * 64}
"""Largest number of (output, input) position pairs at which computing all products is cheaper than oneDNN's method."""


def quicken(module: nn.Module) -> None:
    """Make the plain convolutions of a module train faster on a CPU, in place; weights and names do not change."""
    for part in module.modules():
        if type(part) is nn.Conv2d and part.padding_mode == "zeros" and _symmetric(part):
            part.__class__ = Conv2d


def _symmetric(conv: nn.Conv2d) -> bool:
    """Whether kernel, stride and padding are the same for rows and columns, without dilation."""
    square = len(set(conv.kernel_size)) == len(set(conv.stride)) == len(set(conv.padding)) == 1
    return square and conv.dilation == (1, 1) and not isinstance(conv.padding, str)


class Conv2d(nn.Conv2d):
    """`torch.nn.Conv2d` that computes its gradients by this module's methods when they are needed on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[N, O, H', W']`` of images ``[N, C, H, W]``."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        asked = torch.is_grad_enabled() and (self.weight.requires_grad or x.requires_grad)
        if not asked or x.device.type != "cpu" or x.ndim != 4 or dtype not in _PAIRS:
            return super().forward(x)
        kernel, stride, padding = self.kernel_size[0], self.stride[0], int(self.padding[0])
        height, width = ((side + 2 * padding - kernel) // stride + 1 for side in x.shape[2:])
        if self.groups == self.in_channels == self.out_channels > 1:
            way: type[torch.autograd.Function] = _Depthwise
        elif self.groups == 1 and dtype == torch.bfloat16 and height * width <= _SMALL:
            way = _Dense
        else:
            return super().forward(x)
        y: Tensor = way.apply(x.to(dtype), self.weight.to(dtype), stride, padding)
        return y if self.bias is None else y + self.bias.to(dtype)[:, None, None]


class _Depthwise(torch.autograd.Function):
    """The library's depthwise convolution; gradients that the library computes slowly are computed in another way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return F.conv2d(x, weight, None, stride, padding, 1, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        stride, padding, kernel = ctx.stride, ctx.padding, weight.shape[-1]
        slow = kernel >= 5 or kernel > min(x.shape[2:])
        few = x.shape[2:].numel() * gradient.shape[2:].numel() <= _PAIRS[x.dtype]
        by_pairs = ctx.needs_input_grad[1] and slow and few
        in_fp32 = ctx.needs_input_grad[0] and stride > 1 and x.dtype == torch.bfloat16
        asked = (ctx.needs_input_grad[0] and not in_fp32, ctx.needs_input_grad[1] and not by_pairs)
        of_x, of_weight = _library(gradient, x, weight, stride, padding, asked)
        if in_fp32:
            exact, _ = _library(gradient.float(), x.float(), weight.float(), stride, padding, (True, False))
            of_x = exact.to(x.dtype)
        if by_pairs:
            of_weight = _all_pairs(x, gradient, kernel, stride, padding)
        return of_x, of_weight, None, None


class _Dense(torch.autograd.Function):
    """A dense convolution as one matrix product of its patches (im2col), and its gradients likewise."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        patches, size = _patches(x, weight.shape[-1], stride, padding)
        return _unflattened(patches @ _flat(weight).t(), len(x), size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.stride, ctx.padding
        out, channels, kernel, _ = weight.shape
        rows = gradient.permute(0, 2, 3, 1).reshape(-1, out)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            if stride == 1:  # again a convolution: of the gradient, with the kernel rotated by 180°
                patches, size = _patches(gradient, kernel, 1, kernel - 1 - padding)
                of_x = _unflattened(patches @ _flat(weight.flip(2, 3).transpose(0, 1)).t(), len(x), size)
            else:
                of_x, _ = _library(gradient, x, weight, stride, padding, (True, False))
        if ctx.needs_input_grad[1]:
            of_weight = (rows.t() @ _patches(x, kernel, stride, padding)[0]).reshape(out, kernel, kernel, channels)
            of_weight = of_weight.permute(0, 3, 1, 2)
        return of_x, of_weight, None, None


def _library(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, asked: tuple[bool, bool]
) -> tuple[Any, Any]:
    """Return torch's own gradients of the input and of the weights; None for each that ``asked`` does not request."""
    if not any(asked):
        return None, None
    groups = x.shape[1] // weight.shape[1]
    found = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [stride] * 2, [padding] * 2, [1, 1], False, [0, 0], groups, [*asked, False]
    )
    return found[0], found[1]


def _all_pairs(x: Tensor, gradient: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
    """Return the weight gradient ``[C, 1, k, k]``: multiply every output with every input position, then sum by tap."""
    channels, (height, width), (h, w) = x.shape[1], x.shape[2:], gradient.shape[2:]
    inputs, outputs = (t.permute(1, 0, 2, 3).reshape(channels, len(x), -1) for t in (x, gradient))
    products = torch.bmm(outputs.transpose(1, 2), inputs).reshape(channels, -1)
    taps = _taps(height, width, h, w, kernel, stride, padding, products.dtype)
    return (products @ taps).reshape(channels, 1, kernel, kernel)


@functools.lru_cache(maxsize=32)  # enough for all shapes of a network; at most 13 MB each for 7×7
def _taps(
    height: int, width: int, h: int, w: int, kernel: int, stride: int, padding: int, dtype: torch.dtype
) -> Tensor:
    """Return 0/1 ``[h · w · height · width, k · k]``: which kernel tap connects each output and input position."""
    down = torch.arange(height)[None] - stride * torch.arange(h)[:, None] + padding
    right = torch.arange(width)[None] - stride * torch.arange(w)[:, None] + padding
    rows, columns = (F.one_hot(t.clamp(-1, kernel) + 1, kernel + 2)[..., 1:-1].float() for t in (down, right))
    return torch.einsum("ayi,bxj->abyxij", rows, columns).reshape(-1, kernel * kernel).to(dtype)


def _patches(x: Tensor, kernel: int, stride: int, padding: int) -> tuple[Tensor, tuple[int, int]]:
    """Return the patches of images as rows ``[N · H' · W', k · k · C]``, and ``(H', W')``."""
    pixels = x.permute(0, 2, 3, 1)
    if padding:
        pixels = F.pad(pixels, (0, 0, padding, padding, padding, padding))
    views = pixels.unfold(1, kernel, stride).unfold(2, kernel, stride)
    return views.permute(0, 1, 2, 4, 5, 3).reshape(-1, kernel * kernel * x.shape[1]), (views.shape[1], views.shape[2])


def _flat(weight: Tensor) -> Tensor:
    """Return weights ``[O, C, k, k]`` flattened in the order of `_patches`: ``[O, k · k · C]``."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _unflattened(rows: Tensor, count: int, size: tuple[int, int]) -> Tensor:
    """Return rows ``[N · H' · W', O]`` as images ``[N, O, H', W']``, channels last in memory."""
    return rows.reshape(count, *size, -1).permute(0, 3, 1, 2)
