"""`Lab`: the tools of an experiment's cell: the images, their split, a recipe, detectors trained once, scores."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_df.attacks.runner import Attacked, run_attack
from robustbench_df.attacks.spec import AttackSpec
from robustbench_df.attacks.suite import SUITES, run_suite
from robustbench_df.attacks.transfer import right_on
from robustbench_df.config import Recipe, SpeedConfig, SplitConfig, load_config
from robustbench_df.corruptions.suite import corrupt
from robustbench_df.data.imageset import ImageSet
from robustbench_df.data.split import Split, make_split
from robustbench_df.errors import DataError
from robustbench_df.evaluate import predict_logits
from robustbench_df.metrics.intervals import Interval, wilson
from robustbench_df.models.detector import Detector
from robustbench_df.progress import Reporter
from robustbench_df.settings import merge, validated
from robustbench_df.train.shelf import SHELF, Phase, train_once, training_seconds
from robustbench_df.train.state import load_checkpoint

SPLIT_SEED = 0
"""Seed of the split. It is the same for all seeds of a cell, so that seeds differ only in training and rows can be
compared in pairs."""


@dataclass(frozen=True, eq=False)
class Lab:
    """The working environment of one seed of one cell.

    Attributes:
        images: the images of the experiment.
        config: its ``config.toml``, with the cell's settings merged over it.
        seed: key of the training's randomness.
        device: where to compute.
        shelf: folder of trained detectors (`trained`).
        reporter: receives progress.
        splits: the splits already made, by their settings; shared between cells.
        training: training seconds of each detector that this cell uses, also of those found on the shelf.
        spent: seconds that this cell spent on training or loading detectors.
    """

    images: ImageSet
    config: Mapping[str, Any]
    seed: int = 0
    device: str = "auto"
    shelf: Path = SHELF
    reporter: Reporter = field(default_factory=Reporter)
    splits: dict[str, Split] = field(default_factory=dict)
    training: dict[str, float] = field(default_factory=dict)
    spent: list[float] = field(default_factory=list)

    @cached_property
    def split(self) -> Split:
        """The split of the ``[split]`` table, the same for every seed and cell."""
        settings = validated(SplitConfig, {"seed": SPLIT_SEED, **self.config.get("split", {})})
        key = settings.model_dump_json()
        if key not in self.splits:
            self.splits[key] = made = make_split(self.images, settings)
            if not len(made.test):
                raise DataError("the experiment's split has no test image to judge by; set split.test in config.toml")
        return self.splits[key]

    def recipe(self, **overrides: Any) -> Recipe:
        """Return the preset ``full``, then the ``[recipe]`` table, then ``overrides`` (nested dictionaries).

        Raises:
            UsageError: an unknown setting.
        """
        tables = merge(copy.deepcopy(dict(self.config.get("recipe", {}))), overrides)
        preset = load_config("full").model_dump(include={"model", "augment", "phase1", "phase2"})
        preset["model"]["pretrained"] = "never"
        return validated(Recipe, merge(preset, tables))

    def trained(self, recipe: Recipe | None = None, split: Split | None = None, phase: Phase = "base") -> Detector:
        """Return the detector of a recipe and a split, by default those of the config; see `train_once`."""
        return load_checkpoint(self.checkpoint(recipe, split, phase).parent, phase)

    def checkpoint(self, recipe: Recipe | None = None, split: Split | None = None, phase: Phase = "base") -> Path:
        """Return the weight file of `trained`, which ``recipe(model={"weights": ...})`` can start from."""
        start = time.perf_counter()
        folder = train_once(
            recipe or self.recipe(),
            split or self.split,
            seed=self.seed,
            phase=phase,
            shelf=self.shelf,
            speed=SpeedConfig(device=self.device),
            reporter=self.reporter,
        )
        self.training[folder.name] = training_seconds(folder)
        self.spent.append(time.perf_counter() - start)
        return folder / f"{phase}.safetensors"

    def margins(self, detector: Detector, index: NDArray[Any] | None = None) -> NDArray[np.float64]:
        """Return ``logit_fake - logit_real``, float64 ``[n]``, for the test images, or for those at ``index``."""
        logits = predict_logits(detector, self.images, self.split.test if index is None else index).astype(np.float64)
        return np.asarray(logits[:, 1] - logits[:, 0])

    def accuracy(self, detector: Detector, index: NDArray[Any] | None = None) -> Interval:
        """Return the accuracy at threshold 0.5 on the test images, or on those at ``index``, with Wilson's interval."""
        index = self.split.test if index is None else index
        right = (self.margins(detector, index) >= 0) == (self.images.labels[index] == 1)
        return wilson(int(right.sum()), len(right))

    def corrupted(self, detector: Detector, corruptions: Sequence[str], severity: int) -> Interval:
        """Return the mean accuracy over corruptions, on `attacked_index`, with Wilson's interval for that mean."""
        x, y, ids = (part.to(detector.mean.device) for part in self.batch(self.attacked_index))
        right = [right_on(detector, corrupt(x, name, severity, ids=ids), y).float().mean() for name in corruptions]
        return wilson(round(float(torch.stack(right).mean()) * len(y)), len(y))

    @cached_property
    def attacked_index(self) -> NDArray[np.intp]:
        """Test images, evenly spaced within each class: at most ``attack_images`` of the config, or all without it.

        Not `thin`: kept results are of every n-th image, which in class folders is the same as here.
        """
        test = self.split.test
        limit = int(self.config.get("attack_images", 0)) or len(test)
        by_class = test[np.argsort(-self.images.labels[test], kind="stable")]
        return np.sort(by_class[:: -(-len(test) // limit)])

    def batch(self, index: NDArray[Any]) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``(x float [n, 3, H, W] in [0, 1], labels int64 [n], random keys int64 [n])``."""
        x = torch.from_numpy(self.images.pixels(index)).float() / 255
        labels = torch.from_numpy(self.images.labels[index].astype(np.int64))
        return x, labels, torch.from_numpy(self.images.keys(index))

    def attack(self, detector: Detector, how: str, eps: float, **settings: Any) -> Attacked:
        """Attack the images of `attacked_index` by a suite or an attack; ``eps`` is L∞ in pixels of [0, 1].

        ``settings`` are those of an attack.
        """
        return self._attack(detector, self.attacked_index, how, eps, settings)

    def _attack(
        self, detector: Detector, index: NDArray[Any], how: str, eps: float, settings: Mapping[str, Any]
    ) -> Attacked:
        x, y, ids = (part.to(detector.mean.device) for part in self.batch(index))
        if how in SUITES:
            return run_suite(detector, x, y, how, eps=eps, ids=ids, seed=0)
        return run_attack(detector, x, y, AttackSpec(name=how, eps=eps, **settings), ids=ids, seed=0)

    def robust(self, detector: Detector, how: str, eps: float, **settings: Any) -> Interval:
        """Return the robust accuracy under `attack`, with Wilson's interval: the share correct and not fooled."""
        return self.withstood(detector, {how: settings}, eps)

    def withstood(self, detector: Detector, attacks: Mapping[str, Mapping[str, Any]], eps: float) -> Interval:
        """Return the robust accuracy under several attacks (name -> settings), each run on the images still robust."""
        standing = self.attacked_index
        for how, own in attacks.items():
            if len(standing):
                standing = standing[self._attack(detector, standing, how, eps, own).robust.cpu().numpy()]
        return wilson(len(standing), len(self.attacked_index))
