"""`Victim`: a detector and the images under attack. It answers an attack's queries and measures the results itself.

An attack only makes queries (`margin`, `gradient`, `verdict`) and moves images. The victim decides, for all attacks
alike, what counts as success, how far an image was moved, whether it stayed within the budget and in [0, 1], when it is
finished, and how many passes it cost. Every queried image counts, not only the last.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from robustbench_df.attacks.threat import GEOMETRY, Geometry, per_image
from robustbench_df.errors import ModelError
from robustbench_df.models.detector import Detector, margins

TOLERANCE = 1e-6
"""What float32 rounding may add to a distance or a pixel's bounds: the spacing of float32 near 1 is 1.2e-7."""


@dataclass(eq=False)
class Victim:
    """One batch under attack. Rows are positions in the batch.

    Args:
        detector: frozen by the caller (`robustbench_df.models.detector.frozen`).
        x: images ``[N, C, H, W]`` in [0, 1].
        y: labels ``[N]``, 1 = fake.
        ids: int64 ``[N]``, a stable number per image: the key of all randomness.
        norm: one of ``linf``, ``l2``, ``l1``.
        eps: float ``[N]``, the budget per image.
        key: further parts of the key of all randomness (seed, attack).
        eot: forwards over which each answer is averaged, for detectors that are random themselves (expectation over
            transformation, Athalye et al. 2018, arXiv:1707.07397).
        limit: most forwards per image; an image that has used them is finished. 0: no limit.
        stop: an image is finished at its first success. False: the attack continues, to come nearer.
        start: warm start ``[N, C, H, W]``: where the first run of an iterative attack begins; None: where it chooses.

    ``alive`` ``[N]``: right when clean and not finished. ``closest`` is the nearest image that fooled the detector at
    any distance, and ``distance`` its distance (inf: none). ``worst`` is the lowest margin within the budget, reached
    at ``worst_x``. ``last`` is the last image queried. ``first_step`` is the number of queries up to and including the
    first success, -1: none.
    """

    detector: nn.Module
    x: Tensor
    y: Tensor
    ids: Tensor
    norm: str
    eps: Tensor
    key: tuple[str | int | float, ...] = ()
    eot: int = 1
    limit: int = 0
    stop: bool = True
    start: Tensor | None = None
    correct: Tensor = field(init=False)
    alive: Tensor = field(init=False)
    forwards: Tensor = field(init=False)
    backwards: Tensor = field(init=False)
    queries: Tensor = field(init=False)
    closest: Tensor = field(init=False)
    closest_logits: Tensor = field(init=False)
    distance: Tensor = field(init=False)
    first_step: Tensor = field(init=False)
    worst: Tensor = field(init=False)
    worst_x: Tensor = field(init=False)
    worst_logits: Tensor = field(init=False)
    last: Tensor = field(init=False)
    last_logits: Tensor = field(init=False)
    not_finite: Tensor = field(init=False)
    zero_gradients: Tensor = field(init=False)
    clean_logits: Tensor = field(init=False)
    clean_gradient: Tensor | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        n, device = len(self.x), self.x.device
        counts = torch.zeros(n, dtype=torch.int64, device=device)
        self.forwards, self.backwards, self.queries = counts, counts.clone(), counts.clone()
        self.not_finite, self.zero_gradients = counts.clone(), counts.clone()
        self.closest, self.worst_x, self.last = self.x.clone(), self.x.clone(), self.x.clone()
        self.distance = torch.full((n,), float("inf"), device=device)
        self.worst = torch.full((n,), float("inf"), device=device)
        self.first_step = torch.full((n,), -1, dtype=torch.int64, device=device)
        self.alive = torch.ones(n, dtype=torch.bool, device=device)
        self.correct = torch.zeros_like(self.alive)
        self.closest_logits = torch.full((n, 2), float("nan"), device=device)
        self.clean_logits, self.worst_logits = self.closest_logits.clone(), self.closest_logits.clone()
        self.last_logits = self.closest_logits.clone()

    @property
    def geometry(self) -> Geometry:
        """The norm's functions."""
        return GEOMETRY[self.norm]

    @property
    def success(self) -> Tensor:
        """bool ``[N]``: right when clean, fooled within the budget."""
        return self.correct & (self.distance <= reach(self.eps))

    def rows(self) -> Tensor:
        """Positions of the images that are not finished."""
        return self.alive.nonzero().squeeze(1)

    def project(self, x_adv: Tensor, rows: Tensor) -> Tensor:
        """Project ``x_adv``, images of ``rows``, into their budget and into [0, 1]."""
        x = self.x[rows]
        return x + self.geometry.project(x_adv - x, x, self.eps[rows])

    def open(self, *, gradient: bool) -> None:
        """Score the clean images; with ``gradient`` the same forward also yields the gradient there."""
        rows = self.rows_all()
        if gradient:
            logits, self.clean_gradient = self._slope(self.x, rows)
        else:
            logits = self._ask(self.x, rows)
        self._begin(logits)
        self.not_finite += (~torch.isfinite(self.worst)).long()

    def reopen(self, logits: Tensor, gradient: Tensor | None) -> None:
        """Begin with the clean logits and gradient of an earlier `open` on the same images; costs no pass."""
        self.clean_gradient = gradient
        self._begin(logits)

    def _begin(self, logits: Tensor) -> None:
        """Initialise the state from the logits ``[N, 2]`` of the clean images."""
        self.clean_logits, self.worst_logits, self.last_logits = logits, logits.clone(), logits.clone()
        self.worst = self.signed(logits, self.rows_all())
        # A NaN margin counts as a wrong answer; at a tie the verdict is fake, as in `Decision.apply`.
        self.correct = (self.worst > 0) | ((self.worst == 0) & (self.y == 1))
        self.alive = self.correct.clone()

    def resume(self, eps: Tensor, *, carry: bool) -> Victim:
        """Return a victim for the same images under another budget, with the clean pass reused and not counted again.

        With ``carry``, images that the previous attack fooled within the new budget are finished, and the others have
        the worst image so far as their warm start.
        """
        fields = ("detector", "x", "y", "ids", "norm", "key", "eot", "limit", "stop")
        other = Victim(eps=eps, **{name: getattr(self, name) for name in fields})
        other.reopen(self.clean_logits, self.clean_gradient)
        other.correct, other.alive = self.correct, self.correct.clone()
        if carry:
            for name in ("closest", "closest_logits", "distance", "worst", "worst_x", "worst_logits", "first_step"):
                setattr(other, name, getattr(self, name).clone())
            other.alive &= ~other.success
            other.start = self.worst_x.clone()
        return other

    def rows_all(self) -> Tensor:
        """Positions of all images."""
        return torch.arange(len(self.x), device=self.x.device)

    def margin(self, x_adv: Tensor, rows: Tensor) -> Tensor:
        """Return ``logit_true - logit_wrong`` ``[n]`` of ``x_adv`` ``[n, C, H, W]``, the images of ``rows``.

        A margin at or below zero means that the detector is fooled: a tie counts for the attacker.
        """
        return self._score(x_adv, self._ask(x_adv, rows), rows)

    def verdict(self, x_adv: Tensor, rows: Tensor) -> Tensor:
        """Return bool ``[n]``, whether the detector is fooled; a decision-based attack may see nothing else."""
        return self.margin(x_adv, rows) <= 0

    def gradient(self, x_adv: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the margin ``[n]`` and the gradient ``[n, C, H, W]`` of ``-margin``, which points towards an error.

        With ``stop`` and without `eot`, no backward runs if the forward shows that all images are fooled already; the
        gradient is then zero. With two classes the gradient of the cross-entropy is a positive multiple of this one,
        which cannot saturate.
        """
        logits, gradient = self._slope(x_adv, rows)
        return self._score(x_adv, logits, rows), gradient

    def _slope(self, x_adv: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Mean logits and gradient of ``-margin`` over `eot` forwards."""
        logits, gradient = torch.zeros(len(rows), 2, device=self.x.device), torch.zeros_like(x_adv)
        passes = 0
        for _ in range(self.eot):
            with torch.enable_grad():
                leaf = x_adv.detach().requires_grad_(True)
                seen = self._forward(leaf, rows)
                margin = self.signed(seen, rows)
                if self.eot == 1 and self.stop and not bool((margin > 0).any()):
                    return seen.detach(), gradient
                if seen.requires_grad:  # otherwise the logits are not differentiable in the pixels
                    gradient += torch.autograd.grad(-margin.sum(), leaf)[0]
                passes += 1
            logits += seen.detach()
        self.backwards[rows] += passes
        flat = gradient.flatten(1)
        self.not_finite[rows] += (~torch.isfinite(flat)).any(1).long()
        self.zero_gradients[rows] += (flat == 0).all(1).long()
        gradient = torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)
        return logits / self.eot, gradient / self.eot

    @torch.no_grad()
    def _ask(self, x_adv: Tensor, rows: Tensor) -> Tensor:
        """Mean logits over `eot` forwards."""
        logits = torch.zeros(len(rows), 2, device=self.x.device)
        for _ in range(self.eot):
            logits += self._forward(x_adv, rows)
        return logits / self.eot

    def _forward(self, x_adv: Tensor, rows: Tensor) -> Tensor:
        if isinstance(self.detector, Detector):  # its convolutions keep this layout: most are 15 to 20% faster on a CPU
            x_adv = x_adv.contiguous(memory_format=torch.channels_last)
        logits = check_logits(self.detector(x_adv), len(x_adv))
        self.forwards[rows] += 1
        return logits

    def signed(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Return ``logit_true - logit_wrong`` ``[n]`` of the logits of ``rows``."""
        score = margins(logits)
        return torch.where(self.y[rows] == 1, score, -score)

    @torch.no_grad()
    def _score(self, x_adv: Tensor, logits: Tensor, rows: Tensor) -> Tensor:
        """Record what the logits show about each image; return the margins."""
        x_adv, margin = x_adv.detach(), self.signed(logits, rows)
        self.queries[rows] += 1
        self.not_finite[rows] += (~torch.isfinite(margin)).long()
        length = self.geometry.length(x_adv - self.x[rows])
        flat = x_adv.flatten(1)
        in_box = (flat.amin(1) >= -TOLERANCE) & (flat.amax(1) <= 1 + TOLERANCE)
        allowed = in_box & (length <= reach(self.eps[rows]))
        nearer = in_box & (margin <= 0) & (length < self.distance[rows]) & self.correct[rows]
        lower = allowed & (margin < self.worst[rows])
        first = nearer & allowed & (self.first_step[rows] < 0)
        self.first_step[rows[first]] = self.queries[rows[first]]
        for chosen, images, answers, values, new in (
            (nearer, self.closest, self.closest_logits, self.distance, length),
            (lower, self.worst_x, self.worst_logits, self.worst, margin),
        ):
            kept = rows[chosen]
            images[kept], answers[kept], values[kept] = x_adv[chosen], logits[chosen], new[chosen]
        self.last[rows], self.last_logits[rows] = x_adv, logits
        done = nearer & allowed if self.stop else torch.zeros_like(nearer)
        if self.limit:
            done |= self.forwards[rows] >= self.limit
        self.alive[rows] &= ~done
        return margin

    def result(self) -> tuple[Tensor, Tensor]:
        """Return the resulting images and their logits: the nearest success, else the image with the lowest margin."""
        won = self.success
        logits = torch.where(won[:, None], self.closest_logits, self.worst_logits)
        return torch.where(per_image(won), self.closest, self.worst_x), logits


def reach(eps: Tensor) -> Tensor:
    """The budget plus what float32 rounding may add to a sum over some thousand pixels."""
    return eps * (1 + 1e-5) + TOLERANCE


def check_logits(logits: object, n: int) -> Tensor:
    """Return ``[n, 2]`` logits as float32; refuse anything else.

    Raises:
        ModelError: ``logits`` is not a tensor ``[n, 2]``; the message says what a detector must return and how to wrap
            a one-logit network.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape != (n, 2):
        seen = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ModelError(
            f"the detector returned {seen} for {n} images; it must return logits ({n}, 2), real and fake: "
            "wrap a one-logit network in OneLogit"
        )
    return logits.float()
