"""The training images of a phase: the train part, plus copies of its images with the label of their source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robustbench_df import rng
from robustbench_df.attacks.fgsm import fgsm
from robustbench_df.config import AdversarialConfig, AugmentConfig, PhaseConfig
from robustbench_df.data.split import Split
from robustbench_df.memory import halving
from robustbench_df.models.detector import Detector
from robustbench_df.models.footprint import fitting_batch
from robustbench_df.train.augment import augment


@dataclass(frozen=True, eq=False)
class Copies:
    """Fixed variants of train images: pixels uint8 ``[M, 3, H, W]``, the index of each source, and how it was made."""

    pixels: Tensor
    source: Tensor
    kinds: tuple[str, ...]


@dataclass(eq=False)
class TrainData:
    """The images of one phase, indexed 0 … len-1: first the train part, then the copies.

    Every copy has the label of its source and its own random stream.
    """

    split: Split
    device: str
    copies: Copies | None = None

    def __post_init__(self) -> None:
        images, train = self.split.images, self.split.train
        self._labels = torch.from_numpy(images.labels[train].astype(np.int64))
        self._keys = torch.from_numpy(images.keys(train))

    def __len__(self) -> int:
        return len(self.split.train) + (0 if self.copies is None else len(self.copies.source))

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``(x float [n, 3, H, W] in [0, 1], labels int64 [n], random keys int64 [n])`` on the device."""
        originals = len(self.split.train)
        source, own = index.clone(), index < originals
        pixels = torch.from_numpy(self.split.images.pixels(self.split.train[index[own].numpy()]))
        if self.copies is not None:
            others, copy = pixels, index[~own] - originals
            pixels = torch.empty((len(index), *others.shape[1:]), dtype=torch.uint8)
            pixels[own], pixels[~own] = others, self.copies.pixels[copy]
            source[~own] = self.copies.source[copy]
        x = pixels.to(self.device).float().div_(255)
        # The random key of a copy is the key of its source plus the copy's own index.
        keys = self._keys[source] + torch.where(own, 0, index)
        return x, self._labels[source].to(self.device), keys.to(self.device)

    def add_augmented(self, config: PhaseConfig, how: AugmentConfig, seed: int) -> None:
        """Add ``config.copies`` augmented copies of train images, drawn without replacement (again once exhausted)."""
        if config.copies:
            source = self._draw(config.copies, seed, "augmented")
            parts = []
            for number in torch.arange(len(source)).split(config.batch_size):
                x, _, keys = self.batch(source[number])
                parts.append(_stored(augment(x, how, keys + number.to(x.device), seed, "copies")))
            self._append(torch.cat(parts), source, "augmented")

    def add_adversarial(self, config: AdversarialConfig, detector: Detector, seed: int) -> None:
        """Add ``config.adversarial_copies`` FGSM copies crafted against the current weights of ``detector``."""
        if config.adversarial_copies:
            source = self._draw(config.adversarial_copies, seed, "adversarial")
            most, size = config.micro_batch or config.batch_size, self.split.images.size
            fitting = fitting_batch(most, detector, size, torch.device(self.device), gradient=True)

            def attacked(at_once: int) -> Tensor:
                parts = []
                for index in source.split(at_once):
                    x, y, keys = self.batch(index)
                    parts.append(_stored(fgsm(detector, x, y, draw_epsilons(config, keys, seed, "copies"))))
                return torch.cat(parts)

            self._append(halving(fitting, attacked), source, "adversarial")

    def provenance(self) -> list[dict[str, object]]:
        """List every copy with its source image and label, for the run's record."""
        if self.copies is None:
            return []
        images, copied = self.split.images, self.split.train[self.copies.source.numpy()]
        return [
            {"kind": kind, "source": str(images.ids[i]), "label": int(images.labels[i])}
            for kind, i in zip(self.copies.kinds, copied, strict=True)
        ]

    def _draw(self, count: int, seed: int, purpose: str) -> Tensor:
        generator = torch.Generator().manual_seed(rng.seed_of(seed, purpose))
        n = len(self.split.train)
        rounds = [torch.randperm(n, generator=generator) for _ in range(-(-count // n))]
        return torch.cat(rounds)[:count]

    def _append(self, pixels: Tensor, source: Tensor, kind: str) -> None:
        kinds = (kind,) * len(source)
        if self.copies is not None:
            before = self.copies
            pixels, source = torch.cat([before.pixels, pixels]), torch.cat([before.source, source])
            kinds = before.kinds + kinds
        self.copies = Copies(pixels, source, kinds)


def _stored(x: Tensor) -> Tensor:
    """Convert images in [0, 1] to the form in which they are stored: uint8 on the CPU."""
    return (x * 255).round().to(torch.uint8).cpu()


def draw_epsilons(config: AdversarialConfig, keys: Tensor, *key: rng.Key) -> Tensor:
    """Draw one of ``config.epsilons`` per image: float ``[N]``, pixels of [0, 1]."""
    choices = torch.tensor(config.epsilons, device=keys.device)
    which = (rng.uniform(keys, (1,), "epsilon", *key)[:, 0] * len(choices)).long()
    return choices[which]
