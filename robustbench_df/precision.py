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
    cudnn: Any = torch.backends.cudnn
    places, name, exact = [cudnn], "allow_tf32", False
    if hasattr(cudnn, "conv"):
        # From torch 2.9 on; whoever still reads the setting above is refused where the two below differ.
        places, name, exact = [cudnn.conv, cudnn.rnn], "fp32_precision", "ieee"  # type: ignore[assignment]
    before = [getattr(place, name) for place in places]
    try:
        for place in places:
            setattr(place, name, exact)
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            setattr(place, name, value)
