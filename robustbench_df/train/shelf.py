"""`trained`: one detector from its recipe and split, without a run; it is trained once and then loaded from disk.

Ablations use it, so that cells with a common detector, or a common first phase, train it only once.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any, Literal

from robustbench_df.config import AdversarialConfig, Recipe, SpeedConfig
from robustbench_df.data.cache import default_cache_dir
from robustbench_df.data.split import Split
from robustbench_df.models.detector import Detector
from robustbench_df.models.zoo import build_detector
from robustbench_df.progress import Reporter
from robustbench_df.rundir import RunDir, write_atomic
from robustbench_df.train.fit import fit
from robustbench_df.train.job import Job
from robustbench_df.train.speed import setting_for
from robustbench_df.train.state import load_checkpoint

SHELF = Path("runs") / "shelf"
Phase = Literal["base", "final"]

_DIGITS = 10
"""Bytes of the digest that names a detector's folder."""


def trained(recipe: Recipe, split: Split, *, phase: Phase = "base", **settings: Any) -> Detector:
    """Return the detector that ``recipe`` trains on ``split``, in eval mode; arguments as for `train_once`."""
    return load_checkpoint(train_once(recipe, split, phase=phase, **settings), phase)


def train_once(
    recipe: Recipe,
    split: Split,
    *,
    seed: int = 0,
    phase: Phase = "base",
    shelf: Path = SHELF,
    speed: SpeedConfig | None = None,
    reporter: Reporter | None = None,
) -> Path:
    """Train a detector unless it is on the shelf; returns its folder, with ``<phase>.safetensors``.

    Two recipes that differ only in phase 2 share phase 1. Speed settings are not part of the digest.

    Args:
        recipe: architecture, augmentation and both phases; ``base`` asks for phase 1 only.
        split: the detector is trained on train, and its checkpoint is chosen on val.
        seed: key of all randomness.
        phase: ``base`` (after clean training) or ``final`` (after adversarial fine-tuning).
        shelf: folder of trained detectors, one per digest of recipe, split, images and seed.
        speed: device, precision, threads; probed once per machine where it is ``auto``.
        reporter: receives progress.

    Raises:
        TrainError: the loss is not finite, or even one image does not fit in memory.
        ModelError: the recipe's model cannot be built (`build_detector`).
        RunError: another process is training the same detector.
    """
    base = recipe.model_copy(update={"phase2": AdversarialConfig(epochs=0, select="last")})
    folder = _shelved(base, split, seed, shelf, speed or SpeedConfig(), reporter)
    if phase == "final":
        first, folder = folder, shelf / _digest(recipe, split, seed)
        for name in ("model.json", "base.safetensors"):
            if not (folder / name).exists():
                write_atomic(folder / name, partial(shutil.copyfile, first / name))
        folder = _shelved(recipe, split, seed, shelf, speed or SpeedConfig(), reporter)
    return folder


def training_seconds(folder: Path) -> float:
    """Return the total seconds of all phases in a detector's folder, from their history files."""
    rows = [json.loads(line) for path in folder.glob("*-history.jsonl") for line in path.read_text().splitlines()]
    return float(sum(row["seconds"] for row in rows))


def _shelved(
    recipe: Recipe, split: Split, seed: int, shelf: Path, speed: SpeedConfig, reporter: Reporter | None
) -> Path:
    folder = shelf / _digest(recipe, split, seed)
    if (folder / "final.safetensors").exists():
        return folder
    size = split.images.size

    def build() -> Detector:
        return build_detector(recipe.model, size)[0]

    batch = recipe.phase1.micro_batch or recipe.phase1.batch_size
    identity = recipe.model.model_dump(mode="json")
    setting = setting_for(build, size, batch, speed, identity, default_cache_dir() / "speed")
    with RunDir(folder).lock():
        return fit(Job(recipe.model.name, recipe, folder, setting, seed=seed), split, reporter)


def _digest(recipe: Recipe, split: Split, seed: int) -> str:
    """Return a digest of everything that a detector's weights depend on, apart from the machine."""
    ids = split.images.ids
    made_of: list[Any] = [recipe.model_dump(mode="json"), seed, split.images.fingerprint]
    made_of += [ids[split.train].tolist(), ids[split.val].tolist()]
    weights = Path(recipe.model.weights or "")
    if weights.is_file():  # another file may lie under the same name by now
        with weights.open("rb") as file:
            made_of.append(hashlib.file_digest(file, "blake2b").hexdigest())
    text = json.dumps(made_of, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=_DIGITS).hexdigest()
