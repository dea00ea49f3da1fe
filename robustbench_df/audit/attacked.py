"""Measure on attacked images themselves whether they lie within the budget that their scores are quoted for.

The code that made the images may exceed its ε without noticing: by a step or a clamp in normalised space, an ε of
another pixel range, or a resize in between. Only the images show it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from robustbench_df.audit.finding import AuditFinding, Figure
from robustbench_df.audit.runparts import ATTACKED, Parts
from robustbench_df.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_df.run import Run

EXAMPLES = "examples.json"
"""File beside the pictures of a folder ``attacks/examples-*``. It holds their ``norm``, ``eps`` in pixels of [0, 1],
and ``images``, each with its ``image_id`` and the ``file`` of its attacked picture."""


def kept_examples(run: Run) -> list[Path]:
    """Return a run's `EXAMPLES` files: those of `rdf attack --save-images` and of other tools in the same format."""
    return sorted(run.file("attacks").glob(f"examples-*/{EXAMPLES}"))


def attacked(parts: Parts, kept: list[Path]) -> AuditFinding:
    """Measure every kept picture against the image it was made from; rounding to 8 bits is allowed for.

    Raises:
        RunError: a file or picture cannot be read, or belongs to no image of the run.
    """
    measured: list[tuple[float, float, float, str]] = []
    for path in kept:
        measured += _distances(path, parts)
    beyond = sorted((row for row in measured if row[0] > row[2]), reverse=True)
    figures: dict[str, Figure] = {"images": len(measured), "beyond": len(beyond)}
    if not beyond:
        said = f"{len(measured):,} attacked images lie within the ε that they are quoted for"
        return ATTACKED.found("pass", said, figures)
    far, eps, _, _ = beyond[0]
    figures |= {"largest": far, "eps": eps}
    said = (
        f"{len(beyond):,} of {len(measured):,} attacked images are changed by more than the ε that they are quoted "
        f"for: by up to {far:.2g} of [0, 1] instead of {eps:g}"
    )
    remedy = "quote no number of this attack; step and clamp in pixels of [0, 1], not after normalising (rdf attack)"
    return ATTACKED.found("fail", said, figures, [row[3] for row in beyond], remedy)


def _distances(path: Path, parts: Parts) -> list[tuple[float, float, float, str]]:
    """Return, for each picture beside ``path``, its distance, ε, ε plus the tolerance for rounding, and its id."""
    import torch

    from robustbench_df.attacks.threat import GEOMETRY

    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        length, eps, images = GEOMETRY[about["norm"]].length, float(about["eps"]), about["images"]
        found = []
        for row in images:
            clean = _tensor(parts.images.pixels(np.array([parts.row_of[row["image_id"]]])))
            picture = _tensor(_pixels(path.parent / Path(row["file"]).name))
            rounding = float(length(torch.full_like(clean, 0.5 / 255)))
            found.append((float(length(picture - clean)), eps, eps + rounding + 1e-6, str(row["image_id"])))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise RunError(f"'{path}' and the pictures beside it cannot be measured ({what}); save them again") from error
    return found


def _pixels(path: Path) -> Any:
    from PIL import Image

    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).transpose(2, 0, 1)[None]


def _tensor(pixels: Any) -> Tensor:
    import torch

    return torch.from_numpy(np.array(pixels)).double() / 255
