"""Detectors from networks whose output is not two logits, and the majority vote of several detectors.

Each wrapped network gets unnormalised pixels in [0, 1] and must normalise them itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustbench_df.errors import ModelError, UsageError
from robustbench_df.models.detector import Detector, margins

RESOLUTION = 2.0**-24
"""Spacing of float32 just below 1: a probability closer to 1 would round to 1. Log-odds therefore end at ±16.6."""

_TOLERANCE, _SUM_TOLERANCE = 1e-6, 1e-2
"""Accepted rounding error of a probability, and of the sum of two probabilities (in bf16), which should be 1."""


def two_logits(margin: Tensor) -> Tensor:
    """Return logits ``[N, 2]`` (real, fake) whose difference is ``margin`` ``[N]``."""
    return torch.stack([-margin / 2, margin / 2], dim=1)


def log_odds(fake: Tensor) -> Tensor:
    """Return ``log(p / (1 - p))`` ``[N]`` of P(fake) ``[N]``, clamped to [`RESOLUTION`, 1 - `RESOLUTION`].

    Where the clamp is active, the gradient is zero. NaN stays NaN.
    """
    return torch.logit(fake, eps=RESOLUTION)


class OneLogit(Detector):
    """A network with one logit per image, ``[N]`` or ``[N, 1]``, whose sigmoid is P(fake).

    Args:
        net: maps images ``[N, 3, H, W]`` in [0, 1] to the logit.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        _join(self, net)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, 2]`` = (-z/2, z/2) for images ``[N, 3, H, W]`` in [0, 1].

        Raises:
            ModelError: the network returned another shape.
        """
        return two_logits(_column(self.net(x), len(x), "OneLogit takes one logit per image"))


class Probabilities(Detector):
    """A network that returns P(fake) ``[N]`` or ``[N, 1]``, or probabilities ``[N, 2]`` (real, fake).

    The margin of the returned logits is the log-odds. A single P(fake) is clamped to [2^-24, 1 - 2^-24] (`RESOLUTION`).
    With two columns, each is clamped from below to the smallest normal float32 (2^-126): the smaller column keeps the
    precision that ``1 - p`` would round off. Where a clamp is active, the gradient is zero, so let attacks use the
    network's logits if they are available.

    Args:
        net: maps images ``[N, 3, H, W]`` in [0, 1] to probabilities.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        _join(self, net)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, 2]`` for images ``[N, 3, H, W]`` in [0, 1].

        Raises:
            ModelError: the network returned another shape, or numbers that are not probabilities. NaN is accepted.
        """
        said = self.net(x)
        two = isinstance(said, Tensor) and said.shape == (len(x), 2)
        p = said.float() if two else _column(said, len(x), "Probabilities takes P(fake) or two columns per image")
        off = (p < -_TOLERANCE) | (p > 1 + _TOLERANCE)
        if bool(off.any()):
            raise ModelError(
                f"the network returned {float(p[off].flatten()[0]):g}, which is no probability; logits need no wrapper "
                "if there are two per image, and OneLogit if there is one"
            )
        if not two:
            return two_logits(log_odds(p))
        total = p.detach().sum(1)
        if bool(((total - 1).abs() > _SUM_TOLERANCE).any()):
            raise ModelError(
                f"the network's two columns add up to {float(total[(total - 1).abs().argmax()]):g}, not to 1; "
                "Probabilities takes the softmax of two logits"
            )
        logs = p.clamp_min(torch.finfo(torch.float32).tiny).log()
        return two_logits(margins(logs))


class HardVote(Detector):
    """Majority vote: the margin is the share of members that vote fake, minus 1/2.

    The vote is piecewise constant and has no useful gradient: craft attacks on `soft_surrogate` and score them on this
    detector. A member with margin 0 votes real, as argmax does; a tied vote has margin 0. If a member returns NaN, the
    vote is NaN.

    Args:
        members: detectors with logits ``[N, 2]``, any mixture of kinds.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        if not members:
            raise UsageError("a vote needs at least one detector")
        super().__init__(nn.Identity())
        self.members = nn.ModuleList(members)
        _join(self, self.members)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, 2]``, minus and plus half the margin, for images ``[N, 3, H, W]`` in [0, 1]."""
        logits = torch.stack([member(x).float() for member in self.members])
        return two_logits(self.votes(margins(logits)).mean(0) - 0.5)

    def votes(self, margins: Tensor) -> Tensor:
        """Return each member's vote in [0, 1], 1 = fake, from the margins ``[members, N]``."""
        said = (margins > 0).to(margins.dtype)
        return torch.where(margins.isnan(), margins.detach(), said)


class _SoftVote(HardVote):
    """`HardVote` with each step replaced by a sigmoid of the margin over ``temperature``."""

    def __init__(self, members: Sequence[nn.Module], temperature: float) -> None:
        super().__init__(members)
        self.temperature = temperature

    def votes(self, margins: Tensor) -> Tensor:
        """Return each member's vote in (0, 1), smooth in its margin."""
        return torch.sigmoid(margins / self.temperature)


class _TaughtVote(_SoftVote):
    """`HardVote` forward, `_SoftVote` backward."""

    def votes(self, margins: Tensor) -> Tensor:
        """Return each member's hard vote, with the gradient of its smooth one."""
        soft = _SoftVote.votes(self, margins)
        return soft + (HardVote.votes(self, margins) - soft).detach()


def attackable_vote(members: Sequence[nn.Module], temperature: float = 1.0) -> Detector:
    """Return the majority vote as deployed, but with the gradient of `soft_surrogate` for attacks.

    Logits and margins are those of `HardVote`, so success is measured on the vote itself; only the backward pass is
    approximated (backward pass differentiable approximation, Athalye, Carlini & Wagner 2018, arXiv:1802.00420,
    section 4.1).

    Raises:
        UsageError: no members, or a temperature that is not above 0.
    """
    return _TaughtVote(members, _above_zero(temperature))


def soft_surrogate(members: Sequence[nn.Module], temperature: float = 1.0) -> Detector:
    """Return a smooth surrogate of `HardVote`: its margin is the mean ``sigmoid(margin / temperature)`` minus 1/2.

    At temperature 1 a member's vote is its own P(fake). Towards 0 it becomes the hard vote, and its gradient vanishes.
    A high temperature keeps the votes of fooled members from saturating while other members are not fooled yet. What
    fools the surrogate need not fool the vote, so a report should give both numbers. If the two disagree on a clean
    image and the surrogate is the one in error, the runner does not attack that image; a lower temperature makes such
    images rarer.

    Raises:
        UsageError: no members, or a temperature that is not above 0.
    """
    return _SoftVote(members, _above_zero(temperature))


def _above_zero(temperature: float) -> float:
    if not temperature > 0:
        raise UsageError(f"the temperature of a vote's surrogate must be above 0, not {temperature:g}")
    return temperature


def _column(said: object, n: int, wanted: str) -> Tensor:
    """Return ``[n]`` as float32 from ``[n]`` or ``[n, 1]``; raise ModelError for anything else."""
    if not isinstance(said, Tensor) or said.shape not in ((n,), (n, 1)):
        seen = tuple(said.shape) if isinstance(said, Tensor) else type(said).__name__
        raise ModelError(f"the network returned {seen} for {n} images; {wanted}")
    return said.reshape(n).float()


def _join(detector: Detector, net: nn.Module) -> None:
    """Move the detector's own buffers to the device of ``net``: other code reads the device from these buffers."""
    for parameter in net.parameters():
        detector.to(parameter.device)
        return
