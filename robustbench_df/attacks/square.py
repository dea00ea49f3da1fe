"""Square: random search with square windows, using margins only (Andriushchenko et al. 2020, arXiv:1912.00049).

Every step queries one candidate per image and keeps it if its margin is lower. All unfinished images take each step
together, each with its own random windows.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from robustbench_df import rng
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.threat import per_image
from robustbench_df.attacks.victim import Victim
from robustbench_df.errors import UsageError

QUERIES = 5000
"""Forwards per image, as in AutoAttack (Croce & Hein 2020, arXiv:2003.01690)."""

P_INIT = 0.8
"""Share of the image that the first window covers, as in AutoAttack."""

HALVINGS, SCHEDULE = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000), 10_000
"""Steps at which the share is halved in a run of 10 000 steps; they are scaled to the length of the run. They are those
of the authors' code, also in AutoAttack; the paper's list lacks 500, and with it fewer images are fooled."""

L2_SIDE = 2
"""Smallest side of a window in L2, because it holds two halves of opposite sign."""

TILES = 5
"""The first image in L2 is a grid of 5 × 5 tiles (the paper)."""

_CHUNK = 100
"""Number of steps whose windows are drawn in one call. This saves overhead; the numbers stay independent."""


class _State(NamedTuple):
    """State of the unfinished images, one row each."""

    rows: Tensor
    x: Tensor
    eps: Tensor
    best: Tensor
    margin: Tensor


def square(victim: Victim, spec: AttackSpec) -> None:
    """Search for the lowest margin on the budget's surface, in L∞ and L2, from margins only.

    ``spec.queries`` (default 5000) bounds the forwards per image, including the clean pass; the restarts share them
    evenly. ``spec.steps`` bounds the queries per image and restart. ``spec.params["p_init"]`` in (0, 1] (default 0.8)
    is the share of the image that the first window covers. The schedule of window sizes spans one restart.

    Raises:
        UsageError: ``p_init`` is outside (0, 1].
    """
    p_init = _p_init(spec)
    rows = victim.rows()
    if not len(rows):
        return
    asks = ((spec.queries or QUERIES) - int(victim.forwards[rows].max())) // victim.eot
    restarts = min(spec.restarts, asks)
    for restart in range(restarts):
        share = asks // restarts
        _search(victim, restart, min(spec.steps or share, share), p_init)


def _p_init(spec: AttackSpec) -> float:
    value = spec.params.get("p_init", P_INIT)
    if isinstance(value, bool | str) or not 0 < value <= 1:
        raise UsageError(f"p_init must be a share in (0, 1], not {value}")
    return float(value)


def _search(victim: Victim, restart: int, steps: int, p_init: float) -> None:
    """Run one restart of ``steps`` queries per unfinished image."""
    rows = victim.rows()
    if not len(rows):
        return
    propose = _linf_candidate if victim.norm == "linf" else _l2_candidate
    best = _first(victim, rows, restart)
    margin = torch.nan_to_num(victim.margin(best, rows), nan=float("inf"))
    state = _State(rows, victim.x[rows], victim.eps[rows], best, margin)
    draws = torch.empty(0)
    for step in range(1, steps):
        left = victim.alive[state.rows]
        if not bool(left.all()):
            state = _State(*(values[left] for values in state))
        if not len(state.rows):
            return
        chunk, position = divmod(step - 1, _CHUNK)
        if position == 0:
            # Per step and image: the corners of two windows, one number whose use depends on the norm, a sign per
            # channel.
            shape = (_CHUNK, 5 + victim.x.shape[1])
            draws = rng.uniform(victim.ids, shape, *victim.key, "window", restart, chunk)
        candidate = propose(state, _share(p_init, step, steps), draws[state.rows, position])
        margin = victim.margin(candidate, state.rows)
        better = margin < state.margin
        state.best[better], state.margin[better] = candidate[better], margin[better]


def _share(p_init: float, step: int, steps: int) -> float:
    """Share of the image that the window covers at ``step`` of ``steps``."""
    return p_init * 0.5 ** sum(step * SCHEDULE > at * steps for at in HALVINGS)


def _side(share: float, x: Tensor, least: int) -> int:
    """Side of a square window that covers ``share`` of the image; at least ``least``, at most the image's sides."""
    height, width = x.shape[2:]
    return min(max(round(math.sqrt(share * height * width)), least), height, width)


def _window(x: Tensor, side: int, corner: Tensor) -> Tensor:
    """Flat positions ``[n, C, side²]`` of each image's window; ``corner`` ``[n, 2]`` in [0, 1) places it."""
    n, channels, height, width = x.shape
    top = (corner[:, 0] * (height - side + 1)).long()
    left = (corner[:, 1] * (width - side + 1)).long()
    inner = torch.arange(side, device=x.device)
    flat = (top * width + left)[:, None, None] + (inner[:, None] * width + inner)
    return flat.reshape(n, 1, -1).expand(n, channels, -1)


def _signs(u: Tensor) -> Tensor:
    """-1 or 1 from uniform numbers."""
    return (u < 0.5).to(u.dtype) * 2 - 1


def _first(victim: Victim, rows: Tensor, restart: int) -> Tensor:
    """The first image of a restart: vertical stripes in L∞, a grid of tiles in L2, both of random sign.

    The first restart uses the perturbation of the warm start instead, if there is one, scaled to the budget: in L∞ on
    the pixels that it changes, in L2 as a whole if it is not zero.
    """
    x, eps = victim.x[rows], per_image(victim.eps[rows])
    moved = torch.zeros_like(x) if victim.start is None or restart else victim.start[rows] - x
    if victim.norm == "linf":
        u = rng.uniform(victim.ids[rows], (x.shape[1], 1, x.shape[3]), *victim.key, "stripes", restart).to(x)
        return (x + eps * torch.where(moved == 0, _signs(u), moved.sign())).clamp(0, 1)
    length = per_image(victim.geometry.length(moved))
    direction = torch.where(length > 0, moved, _tiles(victim, rows, restart))
    length = per_image(victim.geometry.length(direction)).clamp_min(torch.finfo(x.dtype).tiny)
    return (x + direction * (eps / length)).clamp(0, 1)


def _linf_candidate(state: _State, share: float, draws: Tensor) -> Tensor:
    """Set one window to ±eps, one sign per channel (algorithm 2: steps of ±2 eps projected on the ball)."""
    x, best = state.x, state.best
    n, channels = x.shape[:2]
    window = _window(x, _side(share, x, 1), draws[:, :2])
    centre, old = x.flatten(2).gather(2, window), best.flatten(2).gather(2, window)
    eps, signs = state.eps[:, None, None], _signs(draws[:, 5:, None])
    new = (centre + signs * eps).clamp(0, 1)
    # A draw that changes nothing would waste a query (one in 2^C for one-pixel windows): flip the sign of one channel.
    idle = (new == old).flatten(1).all(1)
    turned = F.one_hot((draws[:, 4] * channels).long(), channels) * idle[:, None]
    new = (centre + signs * (1 - 2 * turned[:, :, None]) * eps).clamp(0, 1)
    return best.flatten(2).scatter(2, window, new).reshape(n, channels, *x.shape[2:])


def _l2_candidate(state: _State, share: float, draws: Tensor) -> Tensor:
    """Move the budget of one window, together with any unused budget, to a bump in another window (algorithm 3)."""
    x = state.x
    delta = (state.best - x).flatten(2)
    side = _side(share, x, L2_SIDE)
    to, source = _window(x, side, draws[:, :2]), _window(x, side, draws[:, 2:4])
    # Not clamped: where rounding has exceeded the budget, this is negative and the next step corrects it.
    unused = state.eps.square() - delta.flatten(1).square().sum(1)
    here = delta.gather(2, to)
    rest = delta.scatter(2, to, 0.0)
    energy = here.square().sum(2) + rest.gather(2, source).square().sum(2)  # of the union: the overlap counts once
    available = (energy + unused[:, None] / x.shape[1]).clamp_min(0).sqrt()
    bump = _bump(side).to(x)
    bump = torch.where((draws[:, 4] < 0.5)[:, None, None], bump, bump.T).reshape(-1, 1, side * side)
    new = _signs(draws[:, 5:, None]) * bump + _unit(here)
    new = _unit(new) * available[:, :, None]
    return (x + rest.scatter(2, source, 0.0).scatter(2, to, new).reshape(x.shape)).clamp(0, 1)


def _unit(values: Tensor) -> Tensor:
    """Scale the last dimension to length one; zeros stay."""
    length: Tensor = values.norm(dim=2, keepdim=True)
    return values / length.clamp_min(1e-12)


@functools.cache
def _bump(side: int) -> Tensor:
    """Two pyramids of opposite sign, side by side, of length one ``[side, side]`` (the paper's eta)."""
    half = side // 2
    shape = torch.cat([_pyramid(side, half), -_pyramid(side, side - half)], dim=1)
    length: Tensor = shape.norm()
    return shape / length


def _pyramid(height: int, width: int) -> Tensor:
    """``sum over k = 0..M of 1 / (n + 1 - k)²``, n half the height, M falling from the middle."""
    n = height // 2
    down = (torch.arange(height) - n).abs()
    across = (torch.arange(width) - width // 2).abs()
    level = n - torch.maximum(down[:, None], across[None, :])
    return (1 / (n + 1 - torch.arange(n + 1.0)).square()).cumsum(0)[level]


def _tiles(victim: Victim, rows: Tensor, restart: int) -> Tensor:
    """A grid of bumps of random sign per tile and channel, ``[n, C, H, W]``, zero in the margin that fills no tile."""
    channels, height, width = victim.x.shape[1:]
    side = max(min(height, width) // TILES, 1)
    down, across = height // side, width // side
    u = rng.uniform(victim.ids[rows], (channels, down, across), *victim.key, "tiles", restart).to(victim.x)
    signs = _signs(u).repeat_interleave(side, 2).repeat_interleave(side, 3)
    grid = signs * _bump(side).to(u).repeat(down, across)
    top, left = (height - down * side) // 2, (width - across * side) // 2
    return F.pad(grid, (left, width - across * side - left, top, height - down * side - top))
