"""A training job: one detector, its recipe, its folder on disk and its random key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from robustbench_df import rng
from robustbench_df.config import ModelConfig, Recipe
from robustbench_df.models.detector import Detector
from robustbench_df.models.zoo import build_detector
from robustbench_df.train.speed import Setting

PHASES = ("base", "final")
"""The checkpoints kept: after clean training, and after adversarial fine-tuning."""


@dataclass(frozen=True)
class Job:
    """One detector to train: its name, recipe, folder on disk and random key."""

    name: str
    recipe: Recipe
    folder: Path
    setting: Setting
    seed: int = 0
    fold: int = -1
    save_every: float = 20.0

    def key(self, *more: rng.Key) -> tuple[rng.Key, ...]:
        """Return the key under which this job draws its random numbers."""
        return (self.seed, self.name, self.fold, *more)

    @property
    def title(self) -> str:
        """The name shown to the user."""
        return f"{self.name}{f' fold {self.fold + 1}' if self.fold >= 0 else ''}"


def build_for(job: Job, size: tuple[int, int]) -> tuple[Detector, ModelConfig]:
    """Build the job's detector; its initial weights depend on the job's key alone, not on earlier random draws."""
    with torch.random.fork_rng(devices=[]):  # weights are drawn on the CPU, whatever device they move to
        torch.default_generator.manual_seed(rng.seed_of(*job.key("init")))
        return build_detector(job.recipe.model, size)
