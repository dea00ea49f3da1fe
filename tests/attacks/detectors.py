"""Small detectors whose optimum under attack is known, and a small one that is not linear."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
