"""Proof from a run's own files that its evaluation images had no influence on what it learnt or chose.

Nothing here trusts the code that made the run: the split is checked against the images' own pixels, every copy against
the split, every prediction against the fold that made it, and weights and thresholds are fitted again without the test
images, which must give the same result.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robustbench_df.audit.attacked import attacked, kept_examples
from robustbench_df.audit.duplicates import LEAKED
from robustbench_df.audit.finding import AuditCheck, AuditFinding, Example, Figure, Severity
from robustbench_df.audit.runparts import (
    ATTACKED,
    COPIES,
    JUDGED,
    NEAR_COPIES,
    PHASES,
    SELECTION,
    SPLIT,
    Parts,
    not_proved,
    parts_of,
    require_own_images,
)
from robustbench_df.audit.selection import judged, selection
from robustbench_df.data.imageset import ImageSet
from robustbench_df.errors import DataError, RdfError, RunError
from robustbench_df.metrics.intervals import wilson
from robustbench_df.wording import interval

if TYPE_CHECKING:
    from robustbench_df.run import Run

KINDS = {"base": {"augmented"}, "final": {"augmented", "adversarial"}}
"""Kinds of copies that a phase may make."""


def audit_run(
    run: Run, images: ImageSet, near: Sequence[tuple[int, int]] | NDArray[np.intp] | None = None
) -> tuple[AuditFinding, ...]:
    """Check a run for leakage.

    Args:
        run: a finished run, or an unfinished one (what is missing is ``not run``).
        images: the images it was made with (`Run.images`).
        near: pairs of rows that are copies of each other (`robustbench_df.audit.copies.Copies.pairs`); None leaves
            near copies out.

    Returns:
        ``run-split``, ``run-near-copies``, ``run-copies``, ``run-judged`` and ``run-selection``; also ``run-attacked``
        if the run keeps attacked images (`rdf attack --save-images`).

    Raises:
        RunError: the run is about other images.
    """
    require_own_images(run, images)
    try:
        parts = parts_of(run, images)
    except RdfError as error:
        return (not_proved(SPLIT, error),)
    checks: list[tuple[AuditCheck, Callable[[], AuditFinding]]] = [
        (SPLIT, lambda: _split(parts)),
        (NEAR_COPIES, lambda: _near_copies(parts, near)),
        (COPIES, lambda: _copies(run, parts)),
        (JUDGED, lambda: judged(run, parts)),
        (SELECTION, lambda: selection(run, images)),
    ]
    kept = kept_examples(run)
    if kept:
        checks.append((ATTACKED, lambda: attacked(parts, kept)))
    findings = []
    for check, look in checks:
        try:
            findings.append(look())
        except RdfError as error:
            findings.append(not_proved(check, error))
    return tuple(findings)


def _split(parts: Parts) -> AuditFinding:
    """Check that the parts of each fold share no ids, pixels or groups."""
    shared: dict[str, set[str]] = {"ids": set(), "pixels": set(), "groups": set()}
    images = parts.images
    for fold in parts.folds.values():
        rows = np.concatenate(list(fold.values())) if fold else np.empty(0, np.intp)
        part = np.repeat(np.arange(len(fold)), [len(own) for own in fold.values()])
        columns = {"ids": images.ids[rows], "pixels": images.hashes[rows], "groups": images.groups[rows]}
        for what, values in columns.items():
            named = values != "" if what == "groups" else np.ones(len(values), dtype=bool)
            for row in rows[named][_divided(values[named], part[named])]:
                shared[what].add(str(images.ids[row]))
    figures: dict[str, Figure] = {
        "folds": len(parts.folds),
        "images": len(images),
        "unknown_ids": len(parts.unknown),
        **{f"shared_{what}": len(names) for what, names in shared.items()},
    }
    said = f"{len(parts.folds)} split(s) of {len(images):,} images: "
    examples = [*sorted(shared["ids"]), *sorted(shared["pixels"]), *sorted(shared["groups"]), *parts.unknown]
    if not examples:
        return SPLIT.found("pass", f"{said}parts share no id, no pixels and no group", figures)
    faults = [f"{len(names):,} images whose {what} lie in two parts" for what, names in shared.items() if names]
    faults += [f"{len(parts.unknown):,} ids that no image has"] if parts.unknown else []
    said += ", ".join(faults)
    remedy = "no score of this run holds; train again with this version, which refuses such a split"
    return SPLIT.found("fail", said, figures, examples, remedy)


def _divided(values: NDArray[Any], part: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Tell which entries have a value that occurs in more than one part."""
    if not len(values):
        return np.zeros(0, dtype=bool)
    _, code = np.unique(values.astype(str) if values.dtype == object else values, return_inverse=True)
    low, high = np.full(code.max() + 1, len(part)), np.full(code.max() + 1, -1)
    np.minimum.at(low, code, part)
    np.maximum.at(high, code, part)
    return np.asarray(low[code] != high[code])


def _near_copies(parts: Parts, near: Sequence[tuple[int, int]] | NDArray[np.intp] | None) -> AuditFinding:
    if near is None:
        raise DataError("near copies were not looked for")
    pairs = np.asarray(near, dtype=np.intp).reshape(-1, 2)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    images, examples = parts.images, []
    leaked, held = np.zeros(len(images), dtype=bool), np.zeros(len(images), dtype=bool)
    for fold in parts.folds:
        train = parts.trained_on(fold)
        own = np.logical_or.reduce([parts.membership(fold, part) for part in ("val", "cal", "test")])
        held |= own
        hit = both[train[both[:, 0]] & own[both[:, 1]]]
        leaked[hit[:, 1]] = True
        examples += [(str(images.ids[a]), str(images.ids[b])) for a, b in hit]
    share = wilson(int(leaked.sum()), int(held.sum()))
    figures: dict[str, Figure] = {"judged": share.n, "with_near_copy_in_train": int(leaked.sum()), "share": share.value}
    if not leaked.any():
        return NEAR_COPIES.found("pass", f"none of {share.n:,} judged images has a near copy in train", figures)
    said = (
        f"{int(leaked.sum()):,} of {share.n:,} judged images ({interval(share.value, share.low, share.high, '.2%')}) "
        "have a near copy among the images their detectors were trained on"
    )
    remedy = "train again with near copies kept in one part, and report the score without them beside the official one"
    severity: Severity = "fail" if share.low >= LEAKED else "warn"
    return NEAR_COPIES.found(severity, said, figures, list(dict.fromkeys(examples)), remedy)


# --- copies ---------------------------------------------------------------------------------------


def _trainings(run: Run, parts: Parts) -> Iterator[tuple[str, Path, NDArray[np.bool_]]]:
    """Yield each trained detector: its name, its folder and the images it may learn from."""
    for name in run.models:
        for fold in parts.folds:
            yield name, run.model_dir(name, None if fold < 0 else fold), parts.trained_on(fold)
        if (run.model_dir(name) / "refit").is_dir():
            yield name, run.model_dir(name) / "refit", parts.refitted_on()


def _copies(run: Run, parts: Parts) -> AuditFinding:
    """Check every listed copy against the split, and the number of copies against the settings."""
    count: Counter[str] = Counter()
    examples: list[Example] = []
    for name, folder, train in _trainings(run, parts):
        recipe = run.config.for_model(name)
        for phase, settings in PHASES.items():
            if not (folder / f"{phase}.safetensors").exists():
                continue  # not trained yet
            listed = _listed(folder / f"{phase}-copies.json")
            if listed is None:
                count["missing_files"] += 1
                continue
            config = getattr(recipe, settings)
            wanted = config.copies + getattr(config, "adversarial_copies", 0)
            count["files"] += 1
            count["copies"] += len(listed)
            count["unexpected_numbers"] += len(listed) != wanted
            for entry in listed:
                wrong = _fault(entry, phase, parts, train)
                if wrong:
                    count[wrong] += 1
                    examples.append(str(entry.get("source", "?")))
    keys = ("files", "copies", "outside_train", "wrong_label", "unknown", "unexpected_numbers", "missing_files")
    figures: dict[str, Figure] = {key: count[key] for key in keys}
    if not count["files"] + count["missing_files"]:
        raise RunError(f"no detector of run '{run.name}' is trained yet; finish it with: {run.resume_command}")
    said = f"{count['copies']:,} copies in {count['files']} lists"
    if examples:
        said += (
            f": {count['outside_train']:,} of images outside their fold's train, {count['wrong_label']:,} under "
            f"another label than their image's, {count['unknown']:,} of an unknown image or kind"
        )
        remedy = "no score of this run holds; make copies after the split, inside train, and train again"
        return COPIES.found("fail", said, figures, list(dict.fromkeys(examples)), remedy)
    if count["missing_files"] or count["unexpected_numbers"]:
        said += (
            f": {count['missing_files']} detectors have no list of their copies, "
            f"{count['unexpected_numbers']} lists are not as long as the settings say"
        )
        return COPIES.found("warn", said, figures, remedy="train again; the lists are written with every phase")
    return COPIES.found("pass", f"{said}, all of train images under their own label", figures)


def _listed(path: Path) -> list[dict[str, Any]] | None:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RunError(f"'{path}' is damaged: {error}") from error
    if not isinstance(raw, list) or not all(isinstance(entry, dict) for entry in raw):
        raise RunError(f"'{path}' is damaged: it must be a list of copies")
    return raw


def _fault(entry: dict[str, Any], phase: str, parts: Parts, train: NDArray[np.bool_]) -> str:
    """Name what is wrong with one copy; empty if nothing is."""
    row = parts.row_of.get(str(entry.get("source")), -1)
    if row < 0 or entry.get("kind") not in KINDS[phase]:
        return "unknown"
    if not train[row]:
        return "outside_train"
    return "wrong_label" if entry.get("label") != int(parts.images.labels[row]) else ""
