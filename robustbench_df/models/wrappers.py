"""Detectors from networks that answer with something else than two logits, and the vote of several detectors.

Each wrapped network takes pixels in [0, 1] as they come: normalisation is its own affair.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustbench_df.errors import ModelError, UsageError
from robustbench_df.models.detector import Detector, margins

RESOLUTION = 2.0**-24
"""Spacing of float32 just below 1: no probability nearer to 1 can be told from it. Log-odds end at ±16.6."""

_TOLERANCE, _SUM_TOLERANCE = 1e-6, 1e-2
"""What rounding may add to a probability; by how much two of them in bf16 may miss the sum of 1."""


def two_logits(margin: Tensor) -> Tensor:
    """Return logits ``[N, 2]`` (real, fake) whose difference is ``margin`` ``[N]``."""
    return torch.stack([-margin / 2, margin / 2], dim=1)


def log_odds(fake: Tensor) -> Tensor:
    """Return ``log(p / (1 - p))`` ``[N]`` of P(fake) ``[N]``, clamped to `RESOLUTION` from 0 and 1.

    Where the clamp holds, the gradient is zero. NaN stays NaN.
    """
    return torch.logit(fake, eps=RESOLUTION)


class OneLogit(Detector):
    """A network with one logit per image, ``[N]`` or ``[N, 1]``, of which the sigmoid is P(fake).

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

    The logits are log-odds. A single P(fake) is clamped to `RESOLUTION` (2^-24) from 0 and 1; of two columns each is
    clamped to the smallest normal float32 (2^-126), since the smaller one still resolves what ``1 - p`` has rounded
    off. Where a clamp holds, the gradient is zero: give attacks the network's logits if they can be had.

    Args:
        net: maps images ``[N, 3, H, W]`` in [0, 1] to probabilities.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        _join(self, net)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, 2]`` for images ``[N, 3, H, W]`` in [0, 1].

        Raises:
            ModelError: the network returned another shape, or numbers that are no probabilities. NaN passes through.
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
    """Majority vote: the margin is the share of members that say fake, minus 1/2.

    Piecewise constant, so no gradient comes back: attack `soft_surrogate` instead and score here. A member in a tie
    says real, as argmax does; a tied vote has margin 0. A member's NaN makes the vote NaN.

    Args:
        members: detectors with logits ``[N, 2]``, any mixture.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        if not members:
            raise UsageError("a vote needs at least one detector")
        super().__init__(nn.Identity())
        self.members = nn.ModuleList(members)
        _join(self, self.members)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, 2]``, half the margin with either sign, for images ``[N, 3, H, W]`` in [0, 1]."""
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
    """Return the majority vote as deployed, which lends an attack the gradient of `soft_surrogate`.

    Answers and margins are `HardVote`'s, so success is measured on the vote; only the way back is approximated
    (backward pass differentiable approximation, Athalye, Carlini & Wagner 2018, arXiv:1802.00420, section 4.1).

    Raises:
        UsageError: no members, or a temperature that is not above 0.
    """
    return _TaughtVote(members, _above_zero(temperature))


def soft_surrogate(members: Sequence[nn.Module], temperature: float = 1.0) -> Detector:
    """Return the differentiable stand-in for `HardVote`, a margin of mean ``sigmoid(margin / temperature)`` minus 1/2.

    At temperature 1 a vote is the member's own P(fake); towards 0 it becomes the hard vote and its gradient vanishes;
    a high one keeps members from saturating while others still stand. What fools the surrogate need not fool the
    vote, so both numbers belong in a report. An image on which the two disagree when clean is not attacked by the
    runner if the surrogate is the one that errs: a lower temperature leaves fewer of them.

    Raises:
        UsageError: no members, or a temperature that is not above 0.
    """
    return _SoftVote(members, _above_zero(temperature))


def _above_zero(temperature: float) -> float:
    if not temperature > 0:
        raise UsageError(f"the temperature of a vote's surrogate must be above 0, not {temperature:g}")
    return temperature


def _column(said: object, n: int, wanted: str) -> Tensor:
    """Return ``[n]`` as float32 from ``[n]`` or ``[n, 1]``; anything else raises ModelError."""
    if not isinstance(said, Tensor) or said.shape not in ((n,), (n, 1)):
        seen = tuple(said.shape) if isinstance(said, Tensor) else type(said).__name__
        raise ModelError(f"the network returned {seen} for {n} images; {wanted}")
    return said.reshape(n).float()


def _join(detector: Detector, net: nn.Module) -> None:
    """Move the detector's own buffers to where ``net`` is: others look there for its device."""
    for parameter in net.parameters():
        detector.to(parameter.device)
        return
