"""A run's split as stored on disk, and the checks of a run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from robustbench_df.audit.finding import AuditCheck, AuditFinding
from robustbench_df.audit.statistics import Rows
from robustbench_df.data.imageset import SPLIT_NAMES, ImageSet
from robustbench_df.errors import RdfError, RunError

if TYPE_CHECKING:
    from robustbench_df.run import Run

PHASES = {"base": "phase1", "final": "phase2"}
"""A checkpoint's name, and its settings in a run's configuration."""

SPLIT = AuditCheck("run-split", "No image of the run is in two parts of its split")
NEAR_COPIES = AuditCheck("run-near-copies", "No near copy of a judged image was trained on")
COPIES = AuditCheck("run-copies", "Augmented and adversarial copies come from train, with their own label")
JUDGED = AuditCheck("run-judged", "Every image was judged by detectors that had not seen it")
SELECTION = AuditCheck("run-selection", "Nothing was chosen on test")
ATTACKED = AuditCheck("run-attacked", "Attacked images lie within the budget that they are quoted for")


@dataclass(frozen=True, eq=False)
class Parts:
    """A run's split as stored on disk, in rows of the images: ``fold -> part -> rows``; fold -1 is the only split."""

    images: ImageSet
    folds: dict[int, dict[str, Rows]]
    unknown: tuple[str, ...]

    @cached_property
    def row_of(self) -> dict[str, int]:
        """Row of each image id."""
        return {str(name): row for row, name in enumerate(self.images.ids)}

    def membership(self, fold: int, part: str) -> NDArray[np.bool_]:
        """Tell of every image whether it is in that part of the fold: bool ``[N]``."""
        inside = np.zeros(len(self.images), dtype=bool)
        inside[self.folds[fold].get(part, np.empty(0, np.intp))] = True
        return inside

    def trained_on(self, fold: int) -> NDArray[np.bool_]:
        """Images the fold's detectors learn from."""
        return self.membership(fold, "train")

    def refitted_on(self) -> NDArray[np.bool_]:
        """Images a refit learns from: everything but test."""
        first = min(self.folds)
        learnt = [self.membership(first, part) for part in ("train", "val", "cal")]
        return np.asarray(np.logical_or.reduce(learnt), dtype=bool)


def require_own_images(run: Run, images: ImageSet) -> None:
    """Raise `RunError` unless the run was made with these images."""
    if images.fingerprint != run.fingerprint:
        raise RunError(
            f"run '{run.name}' was made with other images (fingerprint {run.fingerprint}, these have "
            f"{images.fingerprint}); audit it with its own: rdf audit --run {run.path}"
        )


def parts_of(run: Run, images: ImageSet) -> Parts:
    """Read a run's split; ids that no image has are kept apart.

    Raises:
        RunError: the run has no split yet.
    """
    table = run.split
    row_of = {str(name): row for row, name in enumerate(images.ids)}
    names = table["image_id"].astype(str).to_numpy()
    rows = np.array([row_of.get(name, -1) for name in names], dtype=np.intp)
    part, fold = table["part"].astype(str).to_numpy(), table["fold"].to_numpy()
    folds = {
        int(k): {p: rows[(fold == k) & (part == p) & (rows >= 0)] for p in SPLIT_NAMES if (part[fold == k] == p).any()}
        for k in np.unique(fold)
    }
    return Parts(images, folds, tuple(str(name) for name in names[rows < 0]))


def not_proved(check: AuditCheck, error: RdfError) -> AuditFinding:
    """Return the finding of a check that could not be made."""
    return check.found("not run", f"not proved: {error}")
