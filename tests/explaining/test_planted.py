"""Planted evidence: a patch alone tells real from fake, and the map of each main detector lies on the patch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_df.config import MAIN_MODELS, ModelConfig
from robustbench_df.explaining.cams import blank, cam_maps
from robustbench_df.models.detector import Detector
from robustbench_df.models.layers import feature_map
from robustbench_df.models.zoo import build_detector

SIDE, PATCH = 32, 8
STEPS, BATCH, RATE = 24, 24, 1e-3


def planted(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images of noise with a patch in one of four corners, its colour the label; and where the patch is."""
    rng = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = 0.5 + 0.15 * torch.randn(n, 3, SIDE, SIDE, generator=rng)
    where = torch.zeros(n, SIDE, SIDE, dtype=torch.bool)
    for k, corner in enumerate(torch.randint(0, 4, (n,), generator=rng).tolist()):
        top, left = (corner // 2) * (SIDE - PATCH), (corner % 2) * (SIDE - PATCH)
        where[k, top : top + PATCH, left : left + PATCH] = True
        x[k, int(y[k]) * 2, top : top + PATCH, left : left + PATCH] += 0.5
    return x.clamp(0, 1), y, where


def trained(name: str) -> Detector:
    torch.manual_seed(0)  # the weights to begin with
    detector, _ = build_detector(ModelConfig(name=name, pretrained="never", dropout=0, drop_path=0), (SIDE, SIDE))
    optimizer = torch.optim.AdamW(detector.parameters(), lr=RATE)
    for step in range(STEPS):
        x, y, _ = planted(BATCH, step + 1)
        loss = F.cross_entropy(detector(x.contiguous(memory_format=torch.channels_last)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return detector.eval()  # type: ignore[return-value]


@pytest.mark.parametrize("name", MAIN_MODELS)
def test_the_maps_mass_lies_on_the_patch(name: str) -> None:
    detector: Any = trained(name)
    x, y, where = planted(48, 0)
    with torch.no_grad():
        said = detector(x).argmax(1)
    right = said == y
    assert right.float().mean() > 0.9
    maps = cam_maps(detector, x, said)
    lit = ~blank(maps) & right.numpy()
    assert lit.mean() > 0.8
    cell = SIDE // feature_map(detector, (SIDE, SIDE)).size[0]
    around = F.max_pool2d(where[:, None].float(), 2 * cell + 1, 1, cell)[:, 0].numpy()
    share = (maps * around).sum((1, 2))[lit] / maps.sum((1, 2))[lit]
    area = around.mean()
    assert share.mean() > 2 * area, f"{share.mean():.2f} of the map on {area:.2f} of the image"
    assert np.median(share) > 2 * area
