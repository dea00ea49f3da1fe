"""HopSkipJump: a walk along the boundary on verdicts alone (Chen, Jordan & Wainwright 2020, arXiv:1904.02144).

Each turn finds the boundary between the image and the nearest point known to fool, estimates the boundary's normal from
verdicts around it, and jumps along it. All images alive take each query together; every image has its own state.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_df import rng
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.threat import per_image
from robustbench_df.attacks.victim import Victim
from robustbench_df.errors import UsageError

QUERIES = 2500
"""Forwards per image: about ten turns."""

DRAWS = 100
"""Verdicts of the first turn's estimate; turn t takes ``DRAWS · √t`` (B₀ of the paper)."""

START_DRAWS = 100
"""Random images tried as a starting point before an image is given up."""

START_GRIDS = (0, 1, 2, 4, 8)
"""The random images take turns between full resolution (0) and this many cells a side. A detector may say the same of
all white noise; plain colours and patches reach the other class more often."""

MAX_HALVINGS = 20
"""Halvings of a segment or a jump, at most: beyond them float32 no longer tells two images apart."""


def hopskipjump(victim: Victim, spec: AttackSpec) -> None:
    """Come as near as verdicts allow, in L∞ and L2. Minimal: goes on within the budget unless the victim stops it.

    ``spec.queries`` (default 2500) bounds the forwards per image, the clean pass included; ``spec.steps`` the turns;
    ``spec.params["draws"]`` sets the verdicts of the first estimate (default 100). An image for which no random image
    fools the detector is given up after `START_DRAWS`. A point that fooled at a former budget serves as the start.

    Raises:
        UsageError: ``draws`` is no whole number, or below 2.
    """
    draws = _draws(spec)
    queries = spec.queries or QUERIES
    points, walking = _starts(victim, queries)
    for turn in range(1, (spec.steps or queries) + 1):
        if not len(_rows(victim, walking, queries)):
            return
        points = _boundary(victim, points, walking, queries)
        # What the jump and the search after it need is held back: an estimate of which nothing comes is a waste.
        spare = queries - 2 * MAX_HALVINGS
        normal = _normal(victim, points, walking, spare, turn, round(draws * turn**0.5))
        points = _jump(victim, points, normal, walking, queries, turn)
    _boundary(victim, points, walking, queries)


def _draws(spec: AttackSpec) -> int:
    value = spec.params.get("draws", DRAWS)
    if type(value) is not int or value < 2:
        raise UsageError(f"draws must be a whole number ≥ 2, not {value}")
    return value


def _rows(victim: Victim, among: Tensor, queries: int) -> Tensor:
    """Positions alive ``among`` (bool ``[N]``) that may be asked about once more."""
    return (victim.alive & among & (victim.forwards + victim.eot <= queries)).nonzero().squeeze(1)


def _starts(victim: Victim, queries: int) -> tuple[Tensor, Tensor]:
    """Images ``[N, C, H, W]`` that fool the detector, and for which rows there is one."""
    points, found = victim.closest.clone(), torch.isfinite(victim.distance)
    channels, *size = victim.x.shape[1:]
    for draw in range(START_DRAWS):
        rows = _rows(victim, ~found, queries)
        if not len(rows):
            break
        cells = START_GRIDS[draw % len(START_GRIDS)]
        grid = (cells, cells) if cells else tuple(size)
        image = rng.uniform(victim.ids[rows], (channels, *grid), *victim.key, "image", draw).to(victim.x)
        image = F.interpolate(image, size, mode="nearest")
        won = victim.verdict(image, rows)
        points[rows[won]], found[rows[won]] = image[won], True
    return points, found


def _between(x: Tensor, far: Tensor, share: Tensor, norm: str) -> Tensor:
    """The point at ``share`` ``[n]`` of the distance from ``x`` to ``far``, in the norm's own way of shrinking.

    L2 shrinks along the segment, L∞ clips to a smaller ball (the paper's two projections).
    """
    delta = far - x
    if norm == "linf":
        bound = per_image(share * delta.flatten(1).abs().amax(1))
        return x + delta.clamp(-bound, bound)
    return x + per_image(share) * delta


def _boundary(victim: Victim, points: Tensor, walking: Tensor, queries: int) -> Tensor:
    """Bisect between images and ``points`` that fool; returns the nearest that still fool, ``[N, C, H, W]``.

    Stops at a share of d^-1.5 of the distance, the paper's threshold: the error then stays below what the draws of the
    estimate move along the normal.
    """
    low, high = torch.zeros_like(victim.eps), torch.ones_like(victim.eps)
    for _ in range(min(math.ceil(1.5 * math.log2(victim.x[0].numel())), MAX_HALVINGS)):
        rows = _rows(victim, walking, queries)
        if not len(rows):
            break
        middle = (low[rows] + high[rows]) / 2
        won = victim.verdict(_between(victim.x[rows], points[rows], middle, victim.norm), rows)
        high[rows] = torch.where(won, middle, high[rows])
        low[rows] = torch.where(won, low[rows], middle)
    return _between(victim.x, points, high, victim.norm)


def _normal(victim: Victim, points: Tensor, walking: Tensor, queries: int, turn: int, draws: int) -> Tensor:
    """Estimate the direction in which the detector errs at ``points``, ``[N, C, H, W]``, not scaled.

    Verdicts are taken at a radius of ``distance / d`` around each point. Their mean is taken off first (the paper's
    baseline), which matters when most agree. The distance is in L2 in both norms, for so is the sphere: the paper's L∞
    radius is lost in float32's rounding. The draws are uniform in a cube and brought to the sphere: they have the
    sphere's first two moments, on which the estimate rests, at a tenth of the time of Gaussian ones.
    """
    radius = _length(points - victim.x) / victim.x[0].numel()
    weighted, plain = torch.zeros_like(points), torch.zeros_like(points)
    verdicts, counts = torch.zeros_like(radius), torch.zeros_like(radius)
    for draw in range(draws):
        rows = _rows(victim, walking, queries)
        if not len(rows):
            break
        noise = rng.uniform(victim.ids[rows], points.shape[1:], *victim.key, "sphere", turn, draw).to(points) * 2 - 1
        here, reach = points[rows], per_image(radius[rows])
        around = (here + noise * (reach / per_image(_length(noise)))).clamp(0, 1)
        step = (around - here) / reach.clamp_min(torch.finfo(reach.dtype).tiny)
        sign = victim.verdict(around, rows).to(points) * 2 - 1
        weighted[rows] += per_image(sign) * step
        plain[rows] += step
        verdicts[rows] += sign
        counts[rows] += 1
    mean = verdicts / counts.clamp_min(1)
    return weighted - per_image(torch.where(mean.abs() < 1, mean, 0.0)) * plain


def _length(delta: Tensor) -> Tensor:
    """L2 length ``[n]``."""
    length: Tensor = delta.flatten(1).norm(dim=1)
    return length


def _jump(victim: Victim, points: Tensor, normal: Tensor, walking: Tensor, queries: int, turn: int) -> Tensor:
    """Step off the boundary along the normal, ``distance / √turn`` far, halved until the detector is fooled."""
    landed, waiting = points.clone(), walking.clone()
    direction = victim.geometry.ascent(normal, points, 1.0)
    stride = victim.geometry.length(points - victim.x) / turn**0.5
    for _ in range(MAX_HALVINGS):
        rows = _rows(victim, waiting, queries)
        if not len(rows):
            break
        ahead = (points[rows] + per_image(stride[rows]) * direction[rows]).clamp(0, 1)
        won = victim.verdict(ahead, rows)
        landed[rows[won]], waiting[rows[won]] = ahead[won], False
        stride[rows] /= 2
    return landed
