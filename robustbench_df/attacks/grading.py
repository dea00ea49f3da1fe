"""The outcome of a check, and how a figure is graded as pass, warn or fail."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustbench_df.attacks.probes import Evidence

Status = Literal["pass", "warn", "fail", "not run"]

DELTA = 0.02
"""Share of images by which an attack may be weaker than another, or a result may change, without a warning: about the
difference between repetitions of an attack (the project's δ)."""

FAR = 0.10
"""The corresponding share for a failure: a tenth of the images changes any conclusion."""

QUANTILE = 1.645
"""One-sided 95% quantile of the normal distribution: at a true share of δ, one set in 20 exceeds `limit`."""

SAME = 1e-3
"""Margins that differ by less than this share of the mean clean margin count as equal: TF32 keeps 10 bits."""


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    ``detail`` is one line with the figures. ``remedy`` says what to do, unless the check passed. ``about`` is the
    attack or threat concerned; it distinguishes several outcomes of the same check on one detector.
    """

    id: str
    status: Status
    detail: str
    figures: dict[str, float]
    remedy: str = ""
    about: str = ""


def limit(share: float, n: int) -> float:
    """Largest observed share of ``n`` images that a true ``share`` explains (one-sided 95%, normal approximation)."""
    return share + QUANTILE * math.sqrt(share * (1 - share) / n)


def graded(
    name: str,
    value: float,
    warn: float,
    fail: float,
    detail: str,
    figures: dict[str, float],
    remedy: str,
    about: str = "",
) -> Check:
    """Grade a value of which smaller is better; NaN fails."""
    status: Status = "pass" if value <= warn else "warn" if value <= fail else "fail"
    return Check(name, status, detail, figures, "" if status == "pass" else remedy, about)


def by_share(name: str, share: float, n: int, detail: str, figures: dict[str, float], remedy: str) -> Check:
    """Grade a share of ``n`` images against `DELTA` and `FAR`, allowing for the sampling error of ``n`` (`limit`)."""
    return graded(name, share, limit(DELTA, n), limit(FAR, n), detail, figures, remedy)


def share_of(flags: Tensor) -> float:
    """Return the share of images that are flagged ``[N]``."""
    return float(flags.float().mean())


def differ(e: Evidence, one: Tensor, other: Tensor) -> Tensor:
    """bool: whether margins differ by more than numerical error (`SAME`)."""
    return ~torch.isclose(one, other, rtol=0.0, atol=SAME * e.scale, equal_nan=True)
