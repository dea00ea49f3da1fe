"""The threat model: a norm and a budget, and the geometry of the three norms in one place.

Every norm supplies the same four functions, so that each attack's loop is written once (a design taken from foolbox).
All budgets are in pixels of [0, 1] and per image: ``eps`` is ``[N]``; images are ``[N, C, H, W]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_df import rng
from robustbench_df.errors import UsageError, nearest

SYMBOLS = {"linf": "L∞", "l2": "L2", "l1": "L1"}
NORMS = tuple(SYMBOLS)

L1_SHARE = 0.05
"""Share of the coordinates that one L1 step moves (sparse steps: Tramèr & Boneh 2019, arXiv:1904.13000, section 4)."""

_BISECTIONS = 40
"""Halvings of the threshold in the L1 projection: enough for more than float32 resolution."""


@dataclass(frozen=True)
class Threat:
    """A norm and a budget in pixels of [0, 1].

    Raises:
        UsageError: an unknown norm, or a budget that is negative, not finite, or above 1 in L∞.
    """

    norm: str
    eps: float

    def __post_init__(self) -> None:
        check_norm(self.norm)
        if not 0 <= self.eps < float("inf"):
            raise UsageError(f"eps must be a number ≥ 0 in pixels of [0, 1], not {self.eps:g}")
        if self.norm == "linf" and self.eps > 1:
            raise UsageError(
                f"eps = {self.eps:g} is more than the whole range of a pixel; eps is in pixels of [0, 1], "
                f"so write {self.eps:g}/255 for {self.eps:g} of 255 steps"
            )

    def __str__(self) -> str:
        return f"{SYMBOLS[self.norm]} {self.eps:g} ({self.eps * 255:.4g}/255)"

    @property
    def name(self) -> str:
        """Stable name, used in files."""
        return f"{self.norm}-{self.eps:g}"


def parse_eps(text: str) -> float:
    """Read ``0.05`` or ``8/255``.

    Raises:
        UsageError: it is neither.
    """
    upper, slash, lower = text.partition("/")
    try:
        value = float(upper) / float(lower) if slash else float(upper)
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"--eps takes a number such as 0.05 or 8/255, not '{text}'") from error
    return value


def check_norm(norm: str) -> None:
    """Refuse a norm that is not one of `NORMS`."""
    if norm not in SYMBOLS:
        raise UsageError(f"unknown norm '{norm}'{nearest(norm, SYMBOLS)}; choose from {', '.join(SYMBOLS)}")


@dataclass(frozen=True)
class Geometry:
    """One norm's functions.

    ``length(delta) -> [N]``. ``project(delta, x, eps)`` brings ``delta`` within the budget and ``x + delta`` into
    [0, 1]. ``ascent(gradient, x, left)`` returns a ``delta`` of length one along which the objective rises; ``left`` in
    (0, 1] is the share of the attack that remains. ``inside(ids, shape, *key)`` draws from the unit ball by `rng`.
    """

    length: Callable[[Tensor], Tensor]
    project: Callable[[Tensor, Tensor, Tensor], Tensor]
    ascent: Callable[[Tensor, Tensor, float], Tensor]
    inside: Callable[..., Tensor]


def per_image(values: Tensor) -> Tensor:
    """Reshape ``[N]`` so that it multiplies ``[N, C, H, W]``."""
    return values.reshape(-1, 1, 1, 1)


def _linf_length(delta: Tensor) -> Tensor:
    return delta.flatten(1).abs().amax(1)


def _linf_project(delta: Tensor, x: Tensor, eps: Tensor) -> Tensor:
    bound = per_image(eps)
    return (x + delta.clamp(-bound, bound)).clamp(0, 1) - x


def _linf_ascent(gradient: Tensor, x: Tensor, left: float) -> Tensor:  # noqa: ARG001  (one signature)
    return gradient.sign()


def _linf_inside(ids: Tensor, shape: Sequence[int], *key: rng.Key) -> Tensor:
    return rng.uniform(ids, shape, *key) * 2 - 1


def _l2_length(delta: Tensor) -> Tensor:
    return delta.flatten(1).square().sum(1).sqrt()


def _l2_project(delta: Tensor, x: Tensor, eps: Tensor) -> Tensor:
    # Clipping to [0, 1] moves every coordinate towards x, which lies in [0, 1], so the length can only decrease.
    scale = (eps / _l2_length(delta).clamp_min(1e-12)).clamp_max(1)
    return (x + delta * per_image(scale)).clamp(0, 1) - x


def _l2_ascent(gradient: Tensor, x: Tensor, left: float) -> Tensor:  # noqa: ARG001
    largest = per_image(_linf_length(gradient))
    scaled = gradient / largest.clamp_min(torch.finfo(gradient.dtype).tiny)  # so that squares do not underflow
    return scaled / per_image(_l2_length(scaled)).clamp_min(1e-12)


def _l2_inside(ids: Tensor, shape: Sequence[int], *key: rng.Key) -> Tensor:
    direction = rng.normal(ids, shape, *key, "direction")
    count = direction[0].numel()
    radius = rng.uniform(ids, (1,), *key, "radius").reshape(-1) ** (1 / count)
    return direction * per_image(radius / _l2_length(direction).clamp_min(1e-12))


def _l1_length(delta: Tensor) -> Tensor:
    return delta.flatten(1).abs().sum(1)


def _l1_project(delta: Tensor, x: Tensor, eps: Tensor) -> Tensor:
    """Exact Euclidean projection on the intersection of ball and box (Croce & Hein 2021, arXiv:2103.01208, sec. 3).

    By the optimality conditions it is ``clip(soft(delta, t), -x, 1 - x)`` for the smallest threshold ``t ≥ 0`` that
    meets the budget. The length decreases with ``t``, so ``t`` is found by bisection.
    """

    def shrunk(t: Tensor) -> Tensor:
        soft = delta.sign() * (delta.abs() - per_image(t)).clamp_min(0)
        return (x + soft).clamp(0, 1) - x

    inside = shrunk(torch.zeros_like(eps))
    if bool((_l1_length(inside) <= eps).all()):
        return inside
    low, high = torch.zeros_like(eps), _linf_length(delta)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        over = _l1_length(shrunk(middle)) > eps
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    fits = _l1_length(inside) <= eps
    return torch.where(per_image(fits), inside, shrunk(high))


def sparse_step(gradient: Tensor, x: Tensor, count: Tensor) -> Tensor:
    """Move the steepest coordinates that still have room in [0, 1] by equal amounts that sum to 1.

    ``count`` is the number of coordinates to move, int64 ``[N]``, at least 1.
    """
    room = torch.where(gradient > 0, x < 1, x > 0)
    slope = torch.where(room, gradient, torch.zeros_like(gradient))
    steepest = slope.flatten(1).abs().topk(max(count.tolist(), default=1), dim=1).values
    least = steepest.gather(1, count[:, None] - 1).squeeze(1)
    step = slope.sign() * (slope.abs() >= per_image(least))
    return step / per_image(_l1_length(step).clamp_min(1))


def _l1_ascent(gradient: Tensor, x: Tensor, left: float) -> Tensor:
    """`sparse_step` with fewer and fewer coordinates as the attack proceeds.

    L1 favours sparse steps. The optimum on a linear detector uses only the very steepest coordinates, which steps of
    fixed sparsity never reach (Croce & Hein 2021 adapt the sparsity, too).
    """
    count = max(round(L1_SHARE * left**2 * x.flatten(1).shape[1]), 1)
    return sparse_step(gradient, x, torch.full((len(x),), count, device=x.device))


def _l1_inside(ids: Tensor, shape: Sequence[int], *key: rng.Key) -> Tensor:
    # Laplace coordinates over their L1 length plus one more exponential: uniform in the ball (Barthe et al. 2005).
    u = rng.uniform(ids, shape, *key) * 2 - 1
    laplace = -u.sign() * torch.log1p(-u.abs() * (1 - 2.0**-24))
    more = -torch.log1p(-rng.uniform(ids, (1,), *key, "more").reshape(-1))
    return laplace / per_image(_l1_length(laplace) + more)


GEOMETRY = {
    "linf": Geometry(_linf_length, _linf_project, _linf_ascent, _linf_inside),
    "l2": Geometry(_l2_length, _l2_project, _l2_ascent, _l2_inside),
    "l1": Geometry(_l1_length, _l1_project, _l1_ascent, _l1_inside),
}
