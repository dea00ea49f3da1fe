"""Section 2: what each detector and the ensemble are, and how good they are on clean images."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

from robustbench_df.errors import RunError
from robustbench_df.report.content import evaluation, training
from robustbench_df.report.content.detector_tables import (
    MODEL,
    PHASE_COLUMN,
    abstention,
    calibration,
    ensembles,
    paired,
)
from robustbench_df.report.content.facts import Facts
from robustbench_df.report.content.judging import Subject, measured, weights_of
from robustbench_df.report.content.pieces import Piece, Tab, tabbed
from robustbench_df.report.content.reading import Pair
from robustbench_df.report.content.words import (
    DELONG,
    NOT_APPLICABLE,
    OPTIMISTIC,
    PARTS,
    WILSON,
)
from robustbench_df.report.document import Block, Cell, Column, Table, Text
from robustbench_df.wording import counted

BUFFERS = re.compile(
    r"(^|\.)(running_mean|running_var|num_batches_tracked)$|^(mean|std)$|^net\.scale\.|^net\.kernels\."
)
"""Tensors of a checkpoint that are not learnt: batch statistics, a `Detector`'s normalisation, fixed kernels."""


def detectors_section(facts: Facts) -> Piece:
    """Build the section and the composed figures of the recipe."""
    if not facts.subjects:
        text = f"No detector has been judged yet. Finish the run with: {facts.material.command('train-all --resume')}"
        blocks: list[Block] = [Text(text), *training.curves(facts)]
        return Piece(tabbed("detectors", "Detectors", "", [Tab("", blocks)]))
    overview: list[Block] = [_table(facts), *ensembles(facts), *paired(facts), calibration(facts)]
    curves, exports = evaluation.evaluation(facts)
    tabs = [
        Tab("Overview", [*overview, *abstention(facts)]),
        *curves,
        Tab("Training", training.curves(facts)),
    ]
    section = tabbed("detectors", "Detectors", _lead(facts), tabs)
    shown = {block.id for block in section.blocks if not isinstance(block, Text)}
    exports = {**exports, "loss_curve": ["training-loss"], "accuracy_curve": ["training-accuracy"]}
    return Piece(section, exports={name: ids for name, ids in exports.items() if shown.issuperset(ids)})


def _lead(facts: Facts) -> str:
    subject = next(iter(facts.subjects.values()))
    part, n = subject.part, len(subject.labels)
    unseen = (
        "on which something was chosen or fitted, as the run has no test part: these numbers are optimistic"
        if part in OPTIMISTIC
        else "which the detectors had not seen"
    )
    folds = "; each was judged by the fold's detectors that had not learnt from it" if part == "oof" else ""
    return (
        f"Judged on {n:,} {PARTS.get(part, part)}, {unseen}{folds}. "
        "Intervals are 95% and speak of other images of this kind, not of another training run."
    )


# --- the main table -------------------------------------------------------------------------------


def _table(facts: Facts) -> Table:
    columns = [
        MODEL,
        PHASE_COLUMN,
        Column("shipped", "Ships", hint="What rdf predict uses."),
        Column("weight", "Weight", "number", "Share in the shipped ensemble."),
        Column("accuracy", "Accuracy", "percent", f"At the calibrated threshold; {WILSON}.", "higher"),
        Column("auc", "AUC", "number", f"Ranking of fakes above reals; {DELONG}.", "higher"),
        Column("f1", "F1", "number", "Of the fakes; bootstrap interval.", "higher"),
        Column("eer", "EER", "percent", "Error where both kinds of error are equal; bootstrap interval.", "lower"),
        Column("tpr", "TPR at 1% FPR", "percent", "Fakes found at one false alarm in 100 reals; bootstrap.", "higher"),
        Column("ms", "ms per image", "number", _speed_hint(facts), "lower"),
        Column("parameters", "Parameters", "count", "Learnt numbers of one network.", "lower"),
        Column("bytes", "File size", "bytes", f"Checkpoints of {counted(_networks(facts), 'network')}.", "lower"),
        Column("n", "Images", "count"),
    ]
    twins = any(subject.part == "test" and _twins(facts, subject) for subject in facts.subjects.values())
    if twins:
        hint = "Accuracy without the test images that have a copy, exact or near, outside the test part."
        columns.insert(5, Column("unique", "Without twins", "percent", hint, "higher"))
    rows = [_row(facts, pair, subject) for pair, subject in facts.subjects.items()]
    note = "" if facts.shipped and facts.shipped.fitted else "Before calibration: the run has no decision yet."
    groups = next(iter(facts.subjects.values())).groups
    drawn = "whole groups of images" if groups is not None else "images"
    note = f"{note} Bootstrap: {drawn} are drawn, within each class.".strip()
    return Table("detectors-table", "Detectors on clean images", columns, rows, note, "phase")


def _row(facts: Facts, pair: Pair, subject: Subject) -> dict[str, Cell]:
    model, phase = pair
    numbers, shipped = subject.numbers, subject is facts.shipped
    row: dict[str, Cell] = {
        "detector": model,
        "phase": phase,
        "shipped": "ships" if shipped else "",
        "weight": _weight(facts, model, phase),
        **{name: numbers[name] for name in ("accuracy", "auc", "f1", "eer")},
        "tpr": numbers["tpr_at_1pct_fpr"],
        "ms": milliseconds_of(facts, model, phase),
        "parameters": parameters_of(facts, model, phase),
        "bytes": _total([_size(facts, name, phase)[1] for name in _networks_of(facts, model, phase)]),
        "n": len(subject.labels),
    }
    if twins := _twins(facts, subject):
        kept = [k for k, name in enumerate(subject.ids) if name not in twins]
        judged = type(subject.judged)(subject.judged.margin[kept], subject.judged.verdict[kept])
        groups = None if subject.groups is None else subject.groups[kept]
        row["unique"] = measured(judged, subject.labels[kept], groups)["accuracy"]
    return row


def _twins(facts: Facts, subject: Subject) -> frozenset[str]:
    """Names of the judged test images that have a copy outside the test part."""
    return facts.material.twins.intersection(subject.ids) if subject.part == "test" else frozenset()


def milliseconds_of(facts: Facts, model: str, phase: str) -> float | None:
    """Time per image of a forward pass; an ensemble's is the sum over its members. None if it was not recorded."""
    return _total([_milliseconds(facts, name, phase) for name in _networks_of(facts, model, phase)])


def parameters_of(facts: Facts, model: str, phase: str) -> int | None:
    """Number of learnt parameters, summed over members for an ensemble; None if a checkpoint is missing."""
    found = _total([_size(facts, name, phase)[0] for name in _networks_of(facts, model, phase)])
    return None if found is None else int(found)


def _networks_of(facts: Facts, model: str, phase: str) -> Sequence[str]:
    """Return the detectors that answer for ``model``: those of an ensemble whose weight is not zero."""
    if model != "ensemble":
        return (model,)
    weights = weights_of(facts.material, facts.material.shipped[0], phase) if facts.material.shipped else None
    used = dict(zip(facts.models, weights.weights, strict=True)) if weights else {}
    return [name for name in facts.models if used.get(name, 1.0)]


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _weight(facts: Facts, model: str, phase: str) -> Cell:
    shipped = facts.material.shipped
    if shipped is None or model == "ensemble" or phase != shipped[1]:
        return NOT_APPLICABLE
    weights = weights_of(facts.material, *shipped)
    return dict(zip(facts.models, weights.weights, strict=True))[model] if weights else NOT_APPLICABLE


def _milliseconds(facts: Facts, model: str, phase: str) -> float | None:
    """Time per image of a forward pass, as recorded with the predictions, or else by `rdf corrupt`."""
    predictions = facts.material.clean.get((model, phase))
    subject = facts.subjects.get((model, phase))
    if predictions is not None and subject is not None:
        seconds = dict(predictions.notes.get("seconds") or {}).get(subject.part)
        if seconds:
            return 1000 * float(seconds) / len(subject.labels) / _answering(facts, subject.part)
    for key, cell in facts.damaged.items():
        if key[:2] == (model, phase) and not key.severity and cell.notes.get("seconds"):
            return 1000 * float(cell.notes["seconds"]) / len(cell.table) / _answering(facts, cell.part)
    return None


def _answering(facts: Facts, part: str) -> int:
    """Number of a detector's networks that answer for an image: on test those of all folds, out of fold only one."""
    return _networks(facts) if part == "test" else 1


def _speed_hint(facts: Facts) -> str:
    device = facts.material.provenance.get("hardware", {}).get("device", "the run's device")
    return (
        f"A forward pass in float32, in batches, on {device}, one network per detector; an ensemble asks those of its "
        "members that have a weight."
    )


def _networks(facts: Facts) -> int:
    return facts.material.run.folds if facts.material.split is not None else 1


def _size(facts: Facts, model: str, phase: str) -> tuple[int | None, int | None]:
    """(learnt parameters of one network, bytes of its checkpoints over all folds); None where a file is missing."""
    run = facts.material.run
    folds = _networks(facts)
    paths = [run.model_dir(model, k if folds > 1 else None) / f"{phase}.safetensors" for k in range(folds)]
    if not all(path.exists() for path in paths):
        return None, None
    return _parameters(paths[0]), sum(path.stat().st_size for path in paths)


def _parameters(path: Path) -> int:
    """Count learnt parameters from a safetensors header (8 bytes of length, then JSON), without reading the weights."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        shapes = [
            entry["shape"] for name, entry in header.items() if name != "__metadata__" and not BUFFERS.search(name)
        ]
    except (OSError, ValueError, OverflowError, MemoryError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"checkpoint '{path}' is damaged ({type(error).__name__}); train the run again") from error
    return sum(math.prod(shape) for shape in shapes)
