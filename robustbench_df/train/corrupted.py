"""Corruptions as augmentation: noise and JPEG, keyed like every other change; blur and the rest are held out.

Robustness to corruptions seen in training says nothing about unseen ones. The families are therefore kept apart: those
here may be used for training, and all others of `rdf corrupt` test the detector on corruptions it has never seen.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robustbench_df import rng
from robustbench_df.corruptions.core import SEVERITIES
from robustbench_df.corruptions.suite import corrupt

TRAINED = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "jpeg_compression", "jpeg_quality")
"""The corruptions that training may use, all equally likely, at a severity of 1 to 5."""


def corrupted(x: Tensor, share: float, ids: Tensor, *key: rng.Key) -> Tensor:
    """Return ``x``, float ``[N, 3, H, W]`` in [0, 1], a ``share`` of its images corrupted by one of `TRAINED`.

    A corrupted image is rounded to 8-bit levels, like an image file and like the output of `rdf corrupt`. The same id
    and key give the same change in any batch. The corruption constants are those for the images' size.
    """
    draws = rng.uniform(ids, (3,), "corruption", *key)
    kind = (draws[:, 1] * len(TRAINED)).long() * len(SEVERITIES) + (draws[:, 2] * len(SEVERITIES)).long()
    kind[draws[:, 0] >= share] = -1
    out, seed = x.clone(), rng.seed_of("corruption", *key)
    for found in torch.unique(kind[kind >= 0]).tolist():
        rows = (kind == found).nonzero().squeeze(1)
        name, severity = TRAINED[found // len(SEVERITIES)], SEVERITIES[found % len(SEVERITIES)]
        levels = (x[rows] * 255).round().to(torch.uint8)
        out[rows] = corrupt(levels, name, severity, ids=ids[rows], seed=seed).to(x.dtype) / 255
    return out
