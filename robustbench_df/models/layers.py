"""Choice of the layer that a CAM is computed from: the deepest one whose feature map still localises.

At 32 px, a network that reduces its image by 32 ends in a 1×1 map; its CAM is zero everywhere, without any error. A 4×4
map is not much better, especially under 5×5 kernels. This was measured on detectors trained on a planted patch
(`tests/explaining/test_planted.py`), as the share of the CAM on the patch and 8 px around it, a quarter of the image:
EfficientNet-B0 0.22 at 4×4 (chance) and 0.50 at 8×8, ResNet-SE 0.67 and 0.86, ConvNeXt-Tiny 0.89 and 0.83. So the map
should have `WANTED` cells per side, as ImageNet networks have at 224 px, and must have at least `LEAST`. Both apply at
the size to which the detector itself resizes its images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_df.errors import ModelError
from robustbench_df.models.detector import Detector, frozen

WANTED, LEAST = 7, 4
"""Cells per side: the wanted number, and the least accepted if no layer has that many. Smaller maps do not localise."""

Reshape = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """A layer whose output is a map over the image.

    ``name`` is its path inside the detector, ``size`` the map's height and width in cells. ``reshape`` converts its
    output to ``[N, C, H, W]`` if it has another layout (tokens, channels last); None if it has not.
    """

    name: str
    module: nn.Module
    size: tuple[int, int]
    reshape: Reshape | None = None


def feature_map(detector: Detector, image_size: tuple[int, int]) -> FeatureMap:
    """Find the deepest stage with `WANTED` cells a side, else `LEAST`, for images of ``image_size`` (h, w in px).

    The stages are those that the network lists itself, as timm's do in ``feature_info``. For a transformer, the layer
    is the norm before the last attention: after it, only the class token affects the verdict, so the patch tokens get
    no gradient.

    Raises:
        ModelError: the network lists no stages, or all its maps are too small.
    """
    net: Any = detector.net
    stages = _stages(net)
    if not stages:
        raise ModelError(
            f"{type(net).__name__} has no feature map that a CAM could be read from; leave it out with --model"
        )
    shapes = _shapes(detector, [module for _, module, _ in stages], image_size)
    maps = []
    for (name, module, channels), shape in zip(stages, shapes, strict=True):
        found = _map_of(net, shape, channels)
        if found is not None:
            maps.append(FeatureMap(f"net.{name}", module, *found))
    for cells in (WANTED, LEAST):
        for layer in reversed(maps):
            if min(layer.size) >= cells:
                return layer
    seen = ", ".join(f"{layer.name} {layer.size[0]}×{layer.size[1]}" for layer in maps)
    raise ModelError(
        f"no layer of {type(net).__name__} keeps a map of {LEAST}×{LEAST} at {image_size[0]}×{image_size[1]} px"
        + (f" ({seen})" if seen else "")
        + "; train it with model.stem=small or a larger model.input_size, or leave it out with --model"
    )


def _stages(net: Any) -> list[tuple[str, nn.Module, int]]:
    """Return name, module and number of channels of the stages, first to last."""
    blocks = getattr(net, "blocks", None)
    if hasattr(net, "num_prefix_tokens") and blocks is not None and hasattr(blocks[-1], "norm1"):
        return [(f"blocks.{len(blocks) - 1}.norm1", blocks[-1].norm1, int(net.num_features))]
    listed = getattr(net, "feature_info", None)
    if not isinstance(listed, list):
        return []
    return [(info["module"], net.get_submodule(info["module"]), int(info["num_chs"])) for info in listed]


def _shapes(
    detector: Detector, modules: Sequence[nn.Module], image_size: tuple[int, int]
) -> list[tuple[int, ...] | None]:
    """Return the output shape of each module for one image; None if it returns no tensor or never runs."""
    shapes: dict[int, tuple[int, ...]] = {}

    def note(module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            shapes[id(module)] = tuple(output.shape)

    hooks = [module.register_forward_hook(note) for module in modules]
    try:
        with frozen(detector), torch.no_grad():
            detector(torch.zeros(1, 3, *image_size, device=detector.mean.device))
    finally:
        for hook in hooks:
            hook.remove()
    return [shapes.get(id(module)) for module in modules]


def _map_of(net: Any, shape: tuple[int, ...] | None, channels: int) -> tuple[tuple[int, int], Reshape | None] | None:
    """Return height and width of a stage's map and how to convert it to ``[N, C, H, W]``; None if it is not a map."""
    if shape is None:
        return None
    if len(shape) == 4 and shape[1] == channels:
        return (shape[2], shape[3]), None
    if len(shape) == 4 and shape[3] == channels:
        return (shape[1], shape[2]), lambda t: t.permute(0, 3, 1, 2)
    grid = getattr(getattr(net, "patch_embed", None), "grid_size", None)
    if len(shape) != 3 or grid is None:
        return None
    height, width = int(grid[0]), int(grid[1])
    prefix = int(getattr(net, "num_prefix_tokens", 0))
    if shape[1] - prefix != height * width:
        return None

    def unfold(tokens: Tensor) -> Tensor:
        return tokens[:, prefix:].transpose(1, 2).reshape(len(tokens), -1, height, width)

    return (height, width), unfold
