"""Planted evidence: a patch alone tells real from fake, and the map of each main detector lies on the patch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_df.config import MAIN_MODELS, ModelConfig
from robustbench_df.explaining.cams import blank, cam_maps
from robustbench_df.models.detector import Detector
from robustbench_df.models.layers import feature_map
from robustbench_df.models.zoo import build_detector

SIDE, PATCH = 32, 8
BUDGET = {"convnext_tiny": (12, 12, 3e-4), "efficientnet_b0": (40, 16, 1e-3), "resnet_se": (6, 12, 1e-3)}
"""Steps, batch, learning rate: as little as it takes on one thread, a few seconds each."""


def planted(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images of noise, the fakes with a bright patch in one of four corners; and where that corner is."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = 0.5 + 0.1 * torch.randn(n, 3, SIDE, SIDE, generator=rng)
    corner = torch.zeros(n, SIDE, SIDE)
    for k, place in enumerate(torch.randint(0, 4, (n,), generator=rng).tolist()):
        top, left = (place // 2) * (SIDE - PATCH), (place % 2) * (SIDE - PATCH)
        corner[k, top : top + PATCH, left : left + PATCH] = 1
    x += 0.4 * (corner * y[:, None, None])[:, None]
    return x.clamp(0, 1).contiguous(memory_format=torch.channels_last), y, corner


def trained(name: str) -> Detector:
    steps, batch, rate = BUDGET[name]
    torch.manual_seed(0)  # the weights to begin with
    detector, _ = build_detector(ModelConfig(name=name, pretrained="never", dropout=0, drop_path=0), (SIDE, SIDE))
    optimizer = torch.optim.AdamW(detector.parameters(), lr=rate, fused=True)
    for step in range(steps):
        x, y, _ = planted(batch, step + 1)
        optimizer.zero_grad()
        F.cross_entropy(detector(x), y).backward()
        optimizer.step()
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:  # so few steps leave its running averages far behind
        norm.reset_running_stats()
        norm.momentum = None
    if norms:
        with torch.no_grad():
            detector(planted(48, 1000)[0])
    detector.eval()
    return detector


@pytest.mark.parametrize("name", MAIN_MODELS)
def test_the_maps_mass_lies_on_the_patch(name: str) -> None:
    detector = trained(name)
    x, y, corner = planted(24, 0)
    with torch.no_grad():
        said = detector(x).argmax(1)
    right = (said == y).numpy()
    assert right.mean() > 0.8
    maps = cam_maps(detector, x, said)
    cell = SIDE // feature_map(detector, (SIDE, SIDE)).size[0]
    near = F.max_pool2d(corner[:, None], 2 * cell + 1, 1, cell)[:, 0].numpy()
    area = near.mean()
    shown = ~blank(maps) & right
    assert shown.mean() > 0.7
    fakes, reals = shown & (y == 1).numpy(), shown & (y == 0).numpy()
    share = (maps * near).sum((1, 2)) / maps.sum((1, 2)).clip(1e-9)
    assert share[fakes].mean() > 2 * area, f"{share[fakes].mean():.2f} of the map on {area:.2f} of the image"
    assert share[reals].mean() < 1.5 * area  # the same corners without a patch: it is not the place that is liked
