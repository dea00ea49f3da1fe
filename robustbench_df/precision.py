"""What fp32 means: all of its 24 bits, also on GPUs whose convolutions would rather take fewer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch


@contextmanager
def exact_fp32() -> Iterator[None]:
    """Compute convolutions of float32 in float32.

    From Ampere on cuDNN rounds their inputs to TF32, whose 11 bits move a margin by some thousandths of its size,
    unless told not to; matrix products are exact by default. Not for training, which is faster and no worse with TF32.
    """
    place: Any = torch.backends.cudnn
    name, exact = "allow_tf32", cast(object, False)
    if hasattr(place, "conv"):  # torch 2.9 and later, which refuse to mix this setting with the one above
        place, name, exact = place.conv, "fp32_precision", "ieee"
    before = getattr(place, name)
    setattr(place, name, exact)
    try:
        yield
    finally:
        setattr(place, name, before)
