"""What a check says, and how a figure becomes pass, warn or fail."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustbench_df.attacks.probes import Evidence

Status = Literal["pass", "warn", "fail", "not run"]

DELTA = 0.02
"""Share of images by which one attack may fall behind another, or a number move, before it is worth a warning: about
what repeats of an attack differ by (the project's δ)."""

FAR = 0.10
"""The same share for a failure: a tenth of the images changes any conclusion."""

QUANTILE = 1.645
"""One-sided 95% of the normal distribution: a true share of δ shows up as more than this in one set of 20."""

SAME = 1e-3
"""Margins that differ by less than this share of the mean clean margin are the same: TF32 keeps 10 bits."""


@dataclass(frozen=True)
class Check:
    """The outcome of one check: ``detail`` is one line with the figures, ``remedy`` what to do unless it passed.

    ``about`` tells several outcomes of the same check of a detector apart: the attack or the threat looked at.
    """

    id: str
    status: Status
    detail: str
    figures: dict[str, float]
    remedy: str = ""
    about: str = ""


def limit(share: float, n: int) -> float:
    """Largest share among ``n`` images that a true ``share`` explains (one-sided 95%, normal approximation)."""
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
    """Grade a value that is better when smaller; what is no number fails."""
    status: Status = "pass" if value <= warn else "warn" if value <= fail else "fail"
    return Check(name, status, detail, figures, "" if status == "pass" else remedy, about)


def by_share(name: str, share: float, n: int, detail: str, figures: dict[str, float], remedy: str) -> Check:
    """Grade a share of ``n`` images against `DELTA` and `FAR`, as far as so few can tell."""
    return graded(name, share, limit(DELTA, n), limit(FAR, n), detail, figures, remedy)


def share_of(flags: Tensor) -> float:
    """Return the share of images that are flagged ``[N]``."""
    return float(flags.float().mean())


def differ(e: Evidence, one: Tensor, other: Tensor) -> Tensor:
    """bool: margins that differ by more than arithmetic does."""
    return ~torch.isclose(one, other, rtol=0.0, atol=SAME * e.scale, equal_nan=True)
