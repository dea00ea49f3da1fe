"""Counter-based randomness: a number is a pure function of (image id, element, key), never of a global state.

The same image therefore gets the same augmentation, noise or attack start, whether it is processed alone or in any
batch, order or device. A resumed run repeats exactly what the interrupted run would have done.

The mixing function is the finaliser of SplitMix64 (Steele, Lea & Flood 2014, "Fast splittable pseudorandom number
generators"; constants of Stafford's variant 13), applied to a per-image key plus an element counter.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

Key = str | int | float

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def fold_key(*key: Key) -> int:
    """Fold any strings and numbers into one signed 64-bit number (BLAKE2b of their ``repr``)."""
    digest = hashlib.blake2b("\0".join(repr(part) for part in key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def seed_of(*key: Key) -> int:
    """Return a non-negative 63-bit seed for ``torch.manual_seed`` or numpy from any strings and numbers."""
    return fold_key(*key) & (_MASK >> 1)


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Shift logically (torch shifts int64 arithmetically)."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """Mix in place, since on a CPU memory access takes most of the time."""
    x.bitwise_xor_(_shift_right(x, 30)).mul_(_signed(0xBF58476D1CE4E5B9))
    x.bitwise_xor_(_shift_right(x, 27)).mul_(_signed(0x94D049BB133111EB))
    return x.bitwise_xor_(_shift_right(x, 31))


def _bits(ids: Tensor, shape: Sequence[int], key: tuple[Key, ...]) -> Tensor:
    """Return 64 random bits for each of ``[len(ids), *shape]`` elements."""
    count = math.prod(shape)
    start = _mix(_mix(ids.to(torch.int64) ^ fold_key(*key)) + _signed(_GOLDEN))
    counter = torch.arange(1, count + 1, device=ids.device, dtype=torch.int64) * _signed(_GOLDEN)
    return _mix(start[:, None] + counter[None, :]).reshape(len(ids), *shape)


def uniform(ids: Tensor, shape: Sequence[int], *key: Key) -> Tensor:
    """Draw uniform numbers in [0, 1), float32 ``[N, *shape]``, one independent stream per id and key.

    Args:
        ids: int64 ``[N]``, a stable number per image (`ImageSet.keys`).
        shape: shape of one image's draw.
        key: values that identify the purpose: seed, "augment", epoch …
    """
    return _shift_right(_bits(ids, shape, key), 40).to(torch.float32) * 2.0**-24


def _words(ids: Tensor, count: int, key: tuple[Key, ...]) -> Tensor:
    """Return random int32 words ``[N, count]``, ``count`` rounded up to even; each 64-bit hash gives two."""
    return _bits(ids, ((count + 1) // 2,), key).view(torch.int32)


def dense_uniform(ids: Tensor, shape: Sequence[int], *key: Key) -> Tensor:
    """Like `uniform` at half the cost, for whole images: each 64-bit hash gives two numbers. The stream differs."""
    words = _words(ids, math.prod(shape), key)[:, : math.prod(shape)]
    return (words >> 8).bitwise_and_((1 << 24) - 1).to(torch.float32).mul_(2.0**-24).reshape(len(ids), *shape)


def normal(ids: Tensor, shape: Sequence[int], *key: Key) -> Tensor:
    """Draw standard normal numbers, float32 ``[N, *shape]`` (Box & Muller 1958), keyed like `uniform`.

    Two numbers come from each 64-bit hash, a radius and an angle of 32 bits; none is larger than 6.7.
    """
    words = _words(ids, math.prod(shape), key).to(torch.float32)
    half = words.shape[1] // 2
    radius = words[:, :half].abs().clamp_min_(0.5).mul_(2.0**-31).log_().mul_(-2).sqrt_()
    angle = words[:, half:] * (math.pi * 2.0**-31)
    both = torch.cat([angle.cos().mul_(radius), angle.sin().mul_(radius)], dim=1)
    return both[:, : math.prod(shape)].reshape(len(ids), *shape)
