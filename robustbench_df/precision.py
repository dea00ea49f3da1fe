"""What fp32 means: all of its 24 bits, also on GPUs whose convolutions would rather take fewer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def exact_fp32() -> Iterator[None]:
    """Compute convolutions of float32 in float32.

    From Ampere on cuDNN rounds their inputs to TF32, whose 11 bits move a margin by some thousandths of its size,
    unless told not to; matrix products are exact by default. Not for training, which is faster and no worse with TF32.
    """
    place: Any = torch.backends.cudnn
    name, exact = "allow_tf32", False
    try:
        before = getattr(place, name)
    except RuntimeError:
        # Somebody has set it for convolutions alone, as torch allows since 2.9, and that is where it is asked for now.
        place, name, exact = place.conv, "fp32_precision", "ieee"  # type: ignore[assignment]
        before = getattr(place, name)
    setattr(place, name, exact)
    try:
        yield
    finally:
        setattr(place, name, before)
