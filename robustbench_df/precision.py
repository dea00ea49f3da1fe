"""Full fp32 precision (24 significant bits), also on GPUs whose convolutions use fewer bits by default."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def exact_fp32() -> Iterator[None]:
    """Compute float32 convolutions in full float32 precision inside the context.

    On Ampere and later GPUs, cuDNN by default rounds the inputs of convolutions to TF32, whose 11 bits change a margin
    by some thousandths of its size. Matrix products are not rounded by default. Training does not use this context:
    its half precisions are coarser than TF32 anyway.
    """
    place: Any = torch.backends.cudnn
    name: str = "allow_tf32"
    exact: bool | str = False
    try:
        before = getattr(place, name)
    except RuntimeError:
        # The setting was made for convolutions alone, which torch allows since 2.9; it must then be read there.
        place, name, exact = place.conv, "fp32_precision", "ieee"
        before = getattr(place, name)
    setattr(place, name, exact)
    try:
        yield
    finally:
        setattr(place, name, before)
