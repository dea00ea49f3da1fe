"""HopSkipJump: a walk along the boundary that uses verdicts only (Chen, Jordan & Wainwright 2020, arXiv:1904.02144).

Each turn finds the boundary between the clean image and its current point that fools the detector, estimates the
boundary's normal from verdicts around it, and jumps along the normal. All unfinished images share each forward; every
image has its own state.
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
"""Default limit of forwards per image: about ten turns."""

DRAWS = 100
"""Number of verdicts for the first turn's estimate; turn t uses ``DRAWS · √t`` (B₀ of the paper)."""

START_DRAWS = 100
"""Number of random images tried as a starting point before an image is given up."""

START_GRIDS = (0, 1, 2, 4, 8)
"""The random images cycle through these resolutions, in cells per side; 0 is full resolution. A detector may give the
same verdict on all white noise; uniform colours and patches reach the other class more often."""

MAX_HALVINGS = 20
"""Most halvings of a segment or a jump: after more, float32 can no longer distinguish the two images."""


def hopskipjump(victim: Victim, spec: AttackSpec) -> None:
    """Find the nearest adversarial image from verdicts, in L∞ and L2.

    It is a minimal attack: within the budget it keeps reducing the distance, unless the victim stops it.
    ``spec.queries`` (default 2500) bounds the forwards per image, including the clean pass; ``spec.steps`` bounds the
    turns; ``spec.params["draws"]`` sets the number of verdicts for the first estimate (default 100). An image is given
    up when none of `START_DRAWS` random images fools the detector. An image that fooled it at an earlier budget serves
    as the starting point.

    Raises:
        UsageError: ``draws`` is not a whole number, or is below 2.
    """
    draws = _draws(spec)
    queries = spec.queries or QUERIES
    points, walking = _starts(victim, queries)
    for turn in range(1, (spec.steps or queries) + 1):
        if not len(_rows(victim, walking, queries)):
            return
        points = _boundary(victim, points, walking, queries)
        # Reserve the queries of the jump and of the next boundary search: without them the estimate would be wasted.
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
    """Unfinished positions ``among`` (bool ``[N]``) whose query limit allows one more query."""
    return (victim.alive & among & (victim.forwards + victim.eot <= queries)).nonzero().squeeze(1)


def _starts(victim: Victim, queries: int) -> tuple[Tensor, Tensor]:
    """Images ``[N, C, H, W]`` that fool the detector, and bool ``[N]``: for which rows one was found."""
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
    """The point at ``share`` ``[n]`` of the distance from ``x`` to ``far``, by the norm's own projection.

    L2 shrinks along the segment, L∞ clips to a smaller ball (the paper's two projections).
    """
    delta = far - x
    if norm == "linf":
        bound = per_image(share * delta.flatten(1).abs().amax(1))
        return x + delta.clamp(-bound, bound)
    return x + per_image(share) * delta


def _boundary(victim: Victim, points: Tensor, walking: Tensor, queries: int) -> Tensor:
    """Bisect between clean images and ``points`` that fool; return the nearest that still fool, ``[N, C, H, W]``.

    The bisection stops at a share of d^-1.5 of the distance, the paper's threshold, or after `MAX_HALVINGS`. At the
    paper's threshold the error is smaller than the movement of the estimate's draws along the normal.
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
    """Estimate the direction in which the detector errs at ``points``, ``[N, C, H, W]``, not normalised.

    Verdicts are taken at a radius of ``distance / d`` around each point. Their mean is subtracted first (the paper's
    baseline), which matters when most of them agree. The distance is L2 in both norms, because the sphere is one in L2
    and the paper's L∞ radius would be lost in float32 rounding. The draws are uniform in a cube and then scaled to the
    sphere: they have the first two moments of the uniform distribution on the sphere, which the estimate relies on, and
    take a tenth of the time of Gaussian draws.
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
    """Step off the boundary along the normal by ``distance / √turn``, halved until the detector is fooled."""
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
