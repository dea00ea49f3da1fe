"""What phase 2 makes of a batch: some of its images are attacked on the detector as it is now."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from robustbench_df import rng
from robustbench_df.config import AdversarialConfig
from robustbench_df.models.detector import Detector
from robustbench_df.train.norms import AuxiliaryNorms, auxiliary_norms
from robustbench_df.train.objectives import craft, start_noise
from robustbench_df.train.speed import Setting
from robustbench_df.train.traindata import draw_epsilons


@dataclass(frozen=True, eq=False)
class Batch:
    """What the loss is put on.

    Attributes:
        images: ``[N, 3, H, W]`` in [0, 1].
        attacked: so many of them, the first, are adversarial.
        partner: the attacked twin of every image, ``[N, 3, H, W]``: the loss is that of TRADES with weight ``beta``.
        norms: batch normalisation of their own for the attacked ones; None: the detector's.
        eps: ``[N]``, how far the perturbation is to follow the gradient that collects on ``images``; None: not at all.
    """

    images: Tensor
    attacked: int = 0
    partner: Tensor | None = None
    beta: float = 0.0
    norms: AuxiliaryNorms | None = None
    eps: Tensor | None = None

    def parts(self, micro: int) -> Iterator[tuple[Tensor, AbstractContextManager[None]]]:
        """Yield positions of at most ``micro`` images, with the context their forward runs in."""
        where = torch.arange(len(self.images), device=self.images.device)
        if self.norms is None:
            yield from ((part, nullcontext()) for part in where.split(micro))
            return
        for group, own in ((where[: self.attacked], True), (where[self.attacked :], False)):
            for part in group.split(micro) if len(group) else ():
                yield part, self.norms.used() if own else nullcontext()


class Adversary:
    """Attacks training batches by the objective of a phase.

    ``norms`` are the auxiliary layers of ``separate_norm``, to be trained and saved along with the detector; None
    where the detector's own serve all images. ``replays`` is how many steps are made on each batch.
    """

    def __init__(self, detector: Detector, config: AdversarialConfig, setting: Setting) -> None:
        self._detector, self._config, self._setting = detector, config, setting
        self.norms = auxiliary_norms(detector) if config.separate_norm else None
        self.replays = config.replays if config.objective == "free" else 1
        self._carried: Tensor | None = None

    def begin_epoch(self) -> None:
        """Forget the perturbation that ``free`` carries along: a phase resumed at an epoch has none either."""
        self._carried = None

    def attack(
        self, x: Tensor, y: Tensor, ids: Tensor, key: tuple[rng.Key, ...], micro: int, generator: torch.Generator
    ) -> Batch:
        """Attack the configured share of the (already shuffled) batch, in micro-batches.

        Args:
            x: images ``[N, 3, H, W]`` in [0, 1].
            y: labels ``[N]``.
            ids: int64 ``[N]``, with ``key`` the key of budgets and random starts.
            micro: images attacked together.
            generator: decides between whole batches where ``mix`` says so.
        """
        config = self._config
        eps, count = draw_epsilons(config, ids, *key), self._count(len(x), generator)
        if config.objective == "free":
            return self._carry(x, eps, count)
        if not count:
            return Batch(x, norms=self.norms)
        one_step = config.objective == "fgsm"  # which starts at the image itself
        noise = torch.zeros_like(x) if one_step else start_noise(ids, x.shape[1:], *key)
        attacked = []
        with self._setting.autocast(), self.norms.used() if self.norms is not None else nullcontext():
            for part in torch.arange(count, device=x.device).split(micro):
                images = x[part].contiguous(memory_format=self._setting.format)
                attacked.append(craft(self._detector, images, y[part], eps[part], config, noise[part]))
        if config.objective == "trades":
            return Batch(x, partner=torch.cat(attacked), beta=config.beta)
        return Batch(torch.cat([*attacked, x[count:]]), attacked=count, norms=self.norms)

    def learn(self, batch: Batch) -> None:
        """Move the carried perturbation one step along the gradient that training left on the batch.

        Free adversarial training (Shafahi et al. 2019, arXiv:1904.12843, algorithm 1): the backward that trains the
        weights also yields the pixels' gradient, so the attack costs no pass of its own.
        """
        if self._carried is None or batch.eps is None or batch.images.grad is None:
            return
        bound = batch.eps.reshape(-1, 1, 1, 1)
        direction = torch.nan_to_num(batch.images.grad).sign()
        self._carried = (self._carried + bound * direction).clamp(-bound, bound)

    def _carry(self, x: Tensor, eps: Tensor, count: int) -> Batch:
        """The batch with the perturbation carried over from the former one, as a leaf that collects its gradient."""
        if self._carried is None:
            self._carried = torch.zeros_like(x)
        bound = eps.reshape(-1, 1, 1, 1)
        moved = (x + self._carried.clamp(-bound, bound)).clamp(0, 1)
        return Batch(torch.cat([moved[:count], x[count:]]).requires_grad_(True), attacked=count, eps=eps)

    def _count(self, n: int, generator: torch.Generator) -> int:
        """How many of ``n`` images are attacked."""
        if self._config.objective == "trades":
            return n
        if self._config.mix == "batch":
            return n if float(torch.rand((), generator=generator)) < self._config.ratio else 0
        return round(self._config.ratio * n)
