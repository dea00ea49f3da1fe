"""How phase 2 prepares a batch: some of its images are attacked, with gradients of the detector's current weights."""

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
    """The images that the loss is computed on.

    Attributes:
        images: ``[N, 3, H, W]`` in [0, 1].
        attacked: number of adversarial images; they are the first ones of ``images``.
        partner: the attacked twin of every image, ``[N, 3, H, W]``. If given, the loss is that of TRADES with weight
            ``beta``.
        norms: separate batch normalisation for the attacked images; None: they use the detector's own.
        eps: ``[N]``, size of the step that the perturbation takes along the gradient accumulated on ``images``; None:
            no such step.
    """

    images: Tensor
    attacked: int = 0
    partner: Tensor | None = None
    beta: float = 0.0
    norms: AuxiliaryNorms | None = None
    eps: Tensor | None = None

    def parts(self, micro: int) -> Iterator[tuple[Tensor, AbstractContextManager[None]]]:
        """Yield positions of at most ``micro`` images, with the context in which their forward pass must run."""
        where = torch.arange(len(self.images), device=self.images.device)
        if self.norms is None:
            yield from ((part, nullcontext()) for part in _even(where, micro))
            return
        for group, own in ((where[: self.attacked], True), (where[self.attacked :], False)):
            for part in _even(group, micro) if len(group) else ():
                yield part, self.norms.used() if own else nullcontext()


def _even(where: Tensor, micro: int) -> tuple[Tensor, ...]:
    """Split into as few parts of at most ``micro`` as can be, of equal size: a rest of a few images would move batch
    normalisation's running statistics as much as a whole part does."""
    return where.tensor_split(-(-len(where) // micro))


class Adversary:
    """Attack training batches as the objective of a phase says.

    ``norms`` are the auxiliary layers of ``separate_norm``, which are trained and saved along with the detector; None
    if the detector's own layers serve all images.
    """

    def __init__(self, detector: Detector, config: AdversarialConfig, setting: Setting) -> None:
        self._detector, self._config, self._setting = detector, config, setting
        self.norms = auxiliary_norms(detector) if config.separate_norm else None
        self._carried: Tensor | None = None

    def begin_epoch(self) -> None:
        """Drop the perturbation that ``free`` carries from batch to batch.

        A phase that is resumed at an epoch starts without one, so an uninterrupted phase must do the same.
        """
        self._carried = None

    def attack(
        self, x: Tensor, y: Tensor, ids: Tensor, key: tuple[rng.Key, ...], micro: int, generator: torch.Generator
    ) -> Batch:
        """Attack the configured share of the (already shuffled) batch, in micro-batches.

        Args:
            x: images ``[N, 3, H, W]`` in [0, 1].
            y: labels ``[N]``.
            ids: image keys, int64 ``[N]``; together with ``key`` they determine budgets and random starts.
            key: the rest of the random key.
            micro: number of images attacked together.
            generator: with ``mix="batch"``, draws whether the whole batch is attacked.
        """
        config = self._config
        eps, count = draw_epsilons(config, ids, *key), self._count(len(x), generator)
        if config.objective == "free":
            return self._carry(x, eps, count)
        if not count:
            return Batch(x, norms=self.norms)
        one_step = config.objective == "fgsm"  # FGSM starts at the image itself, so it needs no noise
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
        """Move the carried perturbation one step along the input gradient that the training step left on the batch.

        Free adversarial training (Shafahi et al. 2019, arXiv:1904.12843, algorithm 1): the backward pass that trains
        the weights also yields the gradient of the pixels, so the attack needs no extra pass.
        """
        if self._carried is None or batch.eps is None or batch.images.grad is None:
            return
        bound = batch.eps.reshape(-1, 1, 1, 1)
        direction = torch.nan_to_num(batch.images.grad).sign()
        self._carried = (self._carried + bound * direction).clamp(-bound, bound)

    def _carry(self, x: Tensor, eps: Tensor, count: int) -> Batch:
        """Return the batch plus the perturbation carried from the last one, as a leaf that accumulates a gradient."""
        if self._carried is None:
            self._carried = torch.zeros_like(x)
        bound = eps.reshape(-1, 1, 1, 1)
        moved = (x + self._carried.clamp(-bound, bound)).clamp(0, 1)
        return Batch(torch.cat([moved[:count], x[count:]]).requires_grad_(True), attacked=count, eps=eps)

    def _count(self, n: int, generator: torch.Generator) -> int:
        """Return how many of ``n`` images are attacked."""
        if self._config.objective == "trades":
            return n
        if self._config.mix == "batch":
            return n if float(torch.rand((), generator=generator)) < self._config.ratio else 0
        return round(self._config.ratio * n)
