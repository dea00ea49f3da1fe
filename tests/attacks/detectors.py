"""Small detectors whose optimum under attack is known, a small one that is not linear, and victims of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.victim import Victim
from robustbench_df.models.detector import frozen

SHAPE = (3, 8, 8)


class Linear(nn.Module):
    """``logit_fake - logit_real = w · (x - 0.5)``: the distance to its boundary is |margin| over the dual norm of w."""

    def __init__(self, seed: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.w = nn.Parameter(torch.randn(SHAPE, generator=generator).flatten() * scale)

    def forward(self, x: Tensor) -> Tensor:
        margin = (x - 0.5).flatten(1) @ self.w
        return torch.stack([-margin / 2, margin / 2], dim=1)

    def distance(self, x: Tensor, norm: str) -> Tensor:
        """Exact distance ``[N]`` to the boundary, as long as no pixel meets 0 or 1."""
        w = self.w.detach()
        dual = {"linf": w.abs().sum(), "l2": w.norm(), "l1": w.abs().max()}[norm]
        margin = (x - 0.5).flatten(1) @ w
        return margin.abs() / dual


class Small(nn.Module):
    """A convolution, batch norm, a kink and a linear head: what makes an attack hard, in miniature."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net = nn.Sequential(
                nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 2)
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - 0.5) * 4)


class Recorder(nn.Module):
    """Keeps every batch that the detector is asked about."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return self.inner(x)


def images(n: int = 24, seed: int = 1, spread: float = 0.2) -> Tensor:
    """Grey images ``[n, 3, 8, 8]`` around 0.5, so that small budgets meet no bound."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((n, *SHAPE), generator=generator) * spread + 0.5 - spread / 2


def labels_of(detector: nn.Module, x: Tensor) -> Tensor:
    """What the detector says itself: every image is then right when clean."""
    was = detector.training
    detector.eval()
    with torch.no_grad():
        said = detector(x).argmax(1)
    detector.train(was)
    return said


def opened(
    detector: nn.Module, x: Tensor, eps: Tensor | float, spec: AttackSpec, *, gradient: bool = False, **own: Any
) -> Victim:
    """A victim that is right on every clean image and set as the spec says, or by ``own`` where that says otherwise."""
    given = {"ids": torch.arange(len(x)), "key": (0, spec.name), "stop": spec.early_stop, **own}
    budget = torch.as_tensor(eps).expand(len(x)).clone()
    victim = Victim(detector, x, labels_of(detector, x), norm=spec.norm, eps=budget, **given)
    victim.open(gradient=gradient)
    return victim


def victim_of(
    attack: Callable[[Victim, AttackSpec], None],
    detector: nn.Module,
    x: Tensor,
    eps: Tensor | float,
    spec: AttackSpec,
    **own: Any,
) -> Victim:
    """What is left of `opened` after an attack on the frozen detector."""
    with frozen(detector):
        victim = opened(detector, x, eps, spec, **own)
        attack(victim, spec)
    return victim
