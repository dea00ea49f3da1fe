"""Predictions on new images, and the file formats in which they are written."""

from __future__ import annotations

import csv
import io
import json
import warnings
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustbench_df.data.imageset import UNLABELLED, ImageSet
from robustbench_df.data.naming import image_number
from robustbench_df.errors import DataError, RunError, UsageError, nearest
from robustbench_df.metrics.scores import Floats, margins
from robustbench_df.rundir import write_atomic, write_text

if TYPE_CHECKING:
    from torch import Tensor

    from robustbench_df.metrics.calibration import Band
    from robustbench_df.run import Run

FORMS = ("challenge", "probability", "confidence", "csv")
PARTS = ("auto", "all", "unlabelled")
PACKED = "submission.zip"


@dataclass(frozen=True, eq=False)
class Verdicts:
    """Predictions for new images: ids, P(fake) after calibration, and the verdict (1 = fake), each ``[N]``.

    ``possible``, bool ``[N, 2]``, says whether the abstention band allows real, and whether it allows fake; None if
    abstention was not requested.
    """

    ids: tuple[str, ...]
    probability: Floats
    verdict: NDArray[np.int8]
    possible: NDArray[np.bool_] | None = None

    @property
    def fakes(self) -> int:
        """Number of images with the verdict fake."""
        return int(self.verdict.sum())

    @property
    def abstained(self) -> int:
        """Number of images for which both labels or neither are possible."""
        return 0 if self.possible is None else int((self.possible.sum(1) != 1).sum())


def tta_views(x: Tensor) -> list[Tensor]:
    """Return the fixed views of test-time augmentation of ``[N, 3, H, W]`` in [0, 1].

    Identity, horizontal flip, a shift by 1/32 of the side in both directions along the diagonal, a 6% enlargement about
    the centre, and brightness ±0.1. The views are fixed, so that the same image always gets the same prediction.
    """
    import torch.nn.functional as F

    height, width = x.shape[2:]
    dy, dx = max(round(height / 32), 1), max(round(width / 32), 1)
    padded = F.pad(x, (dx, dx, dy, dy), mode="reflect")
    by, bx = max(round(height * 0.03), 1), max(round(width * 0.03), 1)
    larger = F.interpolate(
        x[:, :, by : height - by, bx : width - bx], (height, width), mode="bilinear", align_corners=False
    )
    return [
        x,
        x.flip(3),
        padded[:, :, :height, :width],
        padded[:, :, 2 * dy :, 2 * dx :],
        larger,
        (x + 0.1).clamp(0, 1),
        (x - 0.1).clamp(0, 1),
    ]


def select(images: ImageSet, part: str = "auto") -> NDArray[np.intp]:
    """Choose the images to predict: ``auto`` takes the unlabelled images if there are any, else all.

    Raises:
        UsageError: an unknown part.
        DataError: the part is empty.
    """
    if part not in PARTS:
        raise UsageError(f"unknown part '{part}'{nearest(part, PARTS)}; choose from {', '.join(PARTS)}")
    unlabelled = np.flatnonzero(images.labels == UNLABELLED)
    index = np.arange(len(images)) if part == "all" or (part == "auto" and not len(unlabelled)) else unlabelled
    if not len(index):
        raise DataError(f"no unlabelled image in {images.origin}; use --part all")
    return index


def check(
    run: Run,
    model: str,
    forms: Sequence[str],
    *,
    abstain: bool = False,
    phase: str | None = None,
    refit: bool = False,
) -> None:
    """Refuse an unknown model, weighting or form, or a missing band or refit, before any image is read.

    Raises:
        UsageError: a name is unknown (the message gives the choices and the nearest one), or the run has no refit.
        RunError: ``abstain`` is set and the run has no abstention band.
    """
    run.decision(model)
    if refit and not run.refitted:
        raise UsageError(f"run '{run.name}' has no refitted detectors; train one with --refit, or leave --refit away")
    if abstain:
        _band(run, model, phase)
    for form in forms:
        if form not in FORMS:
            raise UsageError(f"unknown form '{form}'{nearest(form, FORMS)}; choose from {', '.join(FORMS)}")


def predict(
    run: Run,
    images: ImageSet,
    index: NDArray[np.intp] | None = None,
    *,
    model: str = "ensemble",
    phase: str | None = None,
    tta: bool = False,
    refit: bool = False,
    abstain: bool = False,
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Verdicts:
    """Score ``images[index]`` with a run's detector or ensemble and apply its decision.

    Args:
        run: the run whose detectors are used.
        images, index: the images to score. They must have the size of the run's images (``load_images(..., size=...)``)
            unless all detectors used resize. An index of None: as `select` chooses.
        model: a detector's name, ``ensemble``, or ``ensemble-uniform`` and the like.
        phase: ``base`` or ``final``; None: as shipped.
        tta: average the probabilities over `tta_views`.
        refit: use the detectors trained on all labelled images.
        abstain: also return the possible labels by the run's abstention band, fitted without ``tta`` and ``refit``.
        device: where to compute.
        progress: called with the number of images of each finished batch.

    Raises:
        DataError: the images have another size than the run's, and a detector does not resize.
        RunError: ``abstain`` is set and the run has no abstention band.

    Warns:
        UserWarning: the original size of some images is outside the range of sizes that the run was trained on.
    """
    from robustbench_df.evaluate import predict_logits

    band = _band(run, model, phase) if abstain else None
    index = select(images) if index is None else index
    if model.partition("-")[0] == "ensemble":
        kind = model.removeprefix("ensemble").removeprefix("-") or None
        detector: Any = run.ensemble(kind, phase, refit=refit)
    else:
        detector = run.detector(model, phase, refit=refit)
    if images.size != run.image_size and not detector.resizes:
        raise _other_size(images, run)
    if said := _resized(images, index, run):
        warnings.warn(said, stacklevel=2)
    logits = predict_logits(detector.to(device), images, index, views=tta_views if tta else None, progress=progress)
    probability, verdict = run.decision(model, phase).apply(margins(logits))
    possible = None if band is None else band.sets(margins(logits))
    return Verdicts(tuple(str(i) for i in images.ids[index]), probability, verdict, possible)


def _other_size(images: ImageSet, run: Run) -> DataError:
    (height, width), (own_height, own_width) = images.size, run.image_size
    # Scaling on loading always gives squares.
    square = f"load them with load_images(..., size={own_height}) or --size {own_height}"
    remedy = square if own_height == own_width else "bring them to that size first"
    return DataError(
        f"the images of {images.origin or 'this set'} are {width}×{height} px, those of run '{run.name}' "
        f"{own_width}×{own_height}: {remedy}"
    )


def _resized(images: ImageSet, index: NDArray[np.intp], run: Run) -> str:
    """Say how many images have an original size not seen in training: scaling can remove or add traces of fakes."""
    known = run.sides
    if known is None:
        return ""
    sides, (least, most) = images.sides[index], known
    strange = sides[(sides < least) | (sides > most)]
    if not len(strange):
        return ""
    values, counts = np.unique(strange, return_counts=True)
    learnt = f"{least}" if least == most else f"{least} to {most}"
    return (
        f"{len(strange):,} of {len(index):,} images are smaller or larger than those run '{run.name}' learnt from "
        f"(shorter side mostly {values[counts.argmax()]} px, learnt {learnt}): scaled to its {min(run.image_size)} px, "
        "they are something that its detectors have not seen"
    )


def _band(run: Run, model: str, phase: str | None) -> Band:
    band = run.band(model, phase)
    if band is None:
        raise RunError(
            f"run '{run.name}' has no abstention band for '{model}': it needs both classes in cal, or folds, and "
            "this version; train again, or leave out --abstain"
        )
    return band


def challenge_order(ids: Sequence[str]) -> list[tuple[int, int]]:
    """Return ``(number in the name, position)`` of each image, sorted by number, so that 2 comes before 10.

    Raises:
        DataError: a name has no number or several, or two images have the same number.
    """
    pairs = sorted((image_number(name), k) for k, name in enumerate(ids))
    for (first, a), (second, b) in pairwise(pairs):
        if first == second:
            raise DataError(f"'{ids[a]}' and '{ids[b]}' have the same number {first}; a challenge index must be unique")
    return pairs


_POSSIBLE = {(True, False): "real", (False, True): "fake", (True, True): "both", (False, False): "neither"}


def render(verdicts: Verdicts, form: str) -> str:
    """Return predictions as text in one of `FORMS`.

    ``challenge``: ``[{"index": 12, "prediction": "fake"}]``. ``probability``: ``[{"image_id": "1.png",
    "prediction": 0.00025}]`` with P(fake). ``confidence``: challenge rows with an additional ``confidence``, the
    probability of the predicted class; it may be below 0.5 if the threshold is not 0.5. ``csv``:
    ``filename,label,probability`` with P(fake) and, with an abstention band, ``possible``: real, fake, both or neither.
    Challenge and confidence rows are in numeric order; the others keep the order of the images (sources sort by name,
    2 before 10).
    """
    names = [PurePosixPath(i).name for i in verdicts.ids]
    if form in ("probability", "csv") and len(set(names)) != len(names):
        names = list(verdicts.ids)  # two folders have the same file name: keep the folder
    words = ["fake" if v else "real" for v in verdicts.verdict]
    p = [float(f"{v:.6g}") for v in verdicts.probability]
    if form == "csv":
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        columns: dict[str, Sequence[Any]] = {"filename": names, "label": words, "probability": p}
        if verdicts.possible is not None:
            columns["possible"] = [_POSSIBLE[bool(real), bool(fake)] for real, fake in verdicts.possible]
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
        return text.getvalue()
    if form == "probability":
        rows: list[dict[str, Any]] = [{"image_id": n, "prediction": v} for n, v in zip(names, p, strict=True)]
        return json.dumps(rows, indent=1) + "\n"
    rows = []
    for number, k in challenge_order(verdicts.ids):
        row: dict[str, Any] = {"index": number, "prediction": words[k]}
        if form == "confidence":
            fake = verdicts.probability[k]
            row["confidence"] = float(f"{fake if verdicts.verdict[k] else 1 - fake:.6g}")
        rows.append(row)
    return json.dumps(rows, indent=1) + "\n"


def write_forms(
    verdicts: Verdicts, folder: Path, forms: Sequence[str] = FORMS, *, pack: bool = False, alone: bool = False
) -> list[Path]:
    """Write predictions in several forms; ``pack`` adds ``submission.zip`` with all of them.

    The files are ``challenge.json``, ``probability.json``, ``confidence.json`` and ``predictions.csv``. All texts are
    rendered before the first file is written. With ``alone``, files of an earlier call that this call does not write
    are finally removed, so that the folder never mixes predictions for different images.
    """
    texts = {_file_of(form): render(verdicts, form) for form in forms}
    for name, text in texts.items():
        write_text(folder / name, text)
    written = [folder / name for name in texts]
    if pack:

        def fill(path: Path) -> None:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, text in texts.items():
                    # The date is fixed, so that the same predictions give the same bytes.
                    archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), text)

        write_atomic(folder / PACKED, fill)
        written.append(folder / PACKED)
    if alone:
        for name in {*map(_file_of, FORMS), PACKED} - {path.name for path in written}:
            (folder / name).unlink(missing_ok=True)
    return written


def _file_of(form: str) -> str:
    return "predictions.csv" if form == "csv" else f"{form}.json"
