"""What is to be trained: one detector, its recipe, its place on disk and its key of randomness."""

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
    """One detector to train: its name, recipe, place on disk and key of randomness."""

    name: str
    recipe: Recipe
    folder: Path
    setting: Setting
    seed: int = 0
    fold: int = -1
    save_every: float = 20.0

    def key(self, *more: rng.Key) -> tuple[rng.Key, ...]:
        """The key under which this job draws its random numbers."""
        return (self.seed, self.name, self.fold, *more)

    @property
    def title(self) -> str:
        """The name a reader sees."""
        return f"{self.name}{f' fold {self.fold + 1}' if self.fold >= 0 else ''}"


def build_for(job: Job, size: tuple[int, int]) -> tuple[Detector, ModelConfig]:
    """Build the job's detector with its own initialisation, whatever was random before."""
    with torch.random.fork_rng(devices=[]):  # weights are drawn on the CPU, wherever they go
        torch.default_generator.manual_seed(rng.seed_of(*job.key("init")))
        return build_detector(job.recipe.model, size)
