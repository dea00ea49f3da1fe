"""Section 2: what each detector and the ensemble are, and how good they are on clean images."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from robustbench_df.errors import RunError
from robustbench_df.metrics.calibration import Band, score_band
from robustbench_df.metrics.compare import holm, mcnemar, paired_delong
from robustbench_df.report.content import evaluation, training
from robustbench_df.report.content.facts import Facts
from robustbench_df.report.content.judging import Subject, ensembles_of, measured, weights_of
from robustbench_df.report.content.pieces import Piece, Tab, tabbed
from robustbench_df.report.content.reading import Pair
from robustbench_df.report.content.words import (
    NOT_APPLICABLE,
    OPTIMISTIC,
    PARTS,
    PHASE_HINT,
    counted,
    defined,
    difference,
)
from robustbench_df.report.document import Block, Cell, Column, Estimate, Table, Text

BUFFERS = re.compile(r"(^|\.)(running_mean|running_var|num_batches_tracked)$|^(mean|std)$")
"""Tensors of a checkpoint that are not learnt: batch statistics, and the normalisation of a `Detector`."""

_MODEL = Column("detector", "Detector", hint="The ensemble is the shipped kind of weighting.")
_PHASE = Column("phase", "Phase", hint=PHASE_HINT)


def detectors_section(facts: Facts) -> Piece:
    """Build the section and the composed figures of the recipe."""
    if not facts.subjects:
        text = f"No detector has been judged yet. Finish the run with: {facts.material.command('train-all --resume')}"
        blocks: list[Block] = [Text(text), *training.curves(facts)]
        return Piece(tabbed("detectors", "Detectors", "", [Tab("", blocks)]))
    overview: list[Block] = [_table(facts), *_ensembles(facts), *_paired(facts), _calibration(facts)]
    curves, exports = evaluation.evaluation(facts)
    tabs = [
        Tab("Overview", [*overview, *_abstention(facts)]),
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
        _MODEL,
        _PHASE,
        Column("shipped", "Ships", hint="What rdf predict uses."),
        Column("weight", "Weight", "number", "Share in the shipped ensemble."),
        Column("accuracy", "Accuracy", "percent", "At the calibrated threshold; Wilson interval.", "higher"),
        Column("auc", "AUC", "number", "Ranking of fakes above reals; DeLong interval.", "higher"),
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
        "bytes": _total([_size(facts, name, phase)[1] for name in _networks_of(facts, model)]),
        "n": len(subject.labels),
    }
    if twins := _twins(facts, subject):
        kept = [k for k, name in enumerate(subject.ids) if name not in twins]
        judged = type(subject.judged)(subject.judged.margin[kept], subject.judged.verdict[kept])
        row["unique"] = measured(judged, subject.labels[kept])["accuracy"]
    return row


def _twins(facts: Facts, subject: Subject) -> frozenset[str]:
    """Names of the judged test images that have a copy outside the test part."""
    return facts.material.twins.intersection(subject.ids) if subject.part == "test" else frozenset()


def milliseconds_of(facts: Facts, model: str, phase: str) -> float | None:
    """Time of one image in a forward pass; an ensemble's is the sum of its members'. None where not recorded."""
    return _total([_milliseconds(facts, name, phase) for name in _networks_of(facts, model)])


def parameters_of(facts: Facts, model: str, phase: str) -> int | None:
    """Learnt numbers of one network, an ensemble's those of its members; None where a checkpoint is missing."""
    found = _total([_size(facts, name, phase)[0] for name in _networks_of(facts, model)])
    return None if found is None else int(found)


def _networks_of(facts: Facts, model: str) -> Sequence[str]:
    return facts.models if model == "ensemble" else (model,)


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
    """Time of one image in a forward pass, as recorded with the predictions, or else by `rdf corrupt`."""
    predictions = facts.material.clean.get((model, phase))
    subject = facts.subjects.get((model, phase))
    if predictions is not None and subject is not None:
        seconds = dict(predictions.notes.get("seconds") or {}).get(subject.part)
        if seconds:
            return 1000 * float(seconds) / len(subject.labels)
    for key, cell in facts.damaged.items():
        if key[:2] == (model, phase) and not key.severity and cell.notes.get("seconds"):
            return 1000 * float(cell.notes["seconds"]) / len(cell.table)
    return None


def _speed_hint(facts: Facts) -> str:
    device = facts.material.provenance.get("hardware", {}).get("device", "the run's device")
    return f"A forward pass in float32, in batches, on {device}, one network per detector; an ensemble asks all of its."


def _networks(facts: Facts) -> int:
    return facts.material.run.folds if facts.material.split is not None else 1


def _size(facts: Facts, model: str, phase: str) -> tuple[int | None, int | None]:
    """(learnt numbers of one network, bytes of its checkpoints over all folds); None where a file is missing."""
    run = facts.material.run
    folds = _networks(facts)
    paths = [run.model_dir(model, k if folds > 1 else None) / f"{phase}.safetensors" for k in range(folds)]
    if not all(path.exists() for path in paths):
        return None, None
    return _parameters(paths[0]), sum(path.stat().st_size for path in paths)


def _parameters(path: Path) -> int:
    """Count learnt numbers from a safetensors header (8 bytes of length, then JSON), without reading the weights."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        shapes = [
            entry["shape"] for name, entry in header.items() if name != "__metadata__" and not BUFFERS.search(name)
        ]
    except (OSError, ValueError, OverflowError, MemoryError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"checkpoint '{path}' is damaged ({type(error).__name__}); train the run again") from error
    return sum(math.prod(shape) for shape in shapes)


# --- beside it ------------------------------------------------------------------------------------


def _ensembles(facts: Facts) -> list[Table]:
    """Every kind of weighting in the shipped phase."""
    shipped = facts.material.shipped
    if shipped is None or len(facts.models) < 2:
        return []
    rows: list[Mapping[str, Cell]] = []
    for kind, subject in ensembles_of(facts.material, shipped[1]).items():
        weights = weights_of(facts.material, kind, shipped[1])
        entry = facts.material.fitted[shipped[1]]["ensembles"][kind]
        numbers = measured(subject.judged, subject.labels)
        shares = zip(facts.models, weights.weights if weights else (), strict=False)
        rows.append(
            {
                "kind": kind,
                "shipped": "ships" if kind == shipped[0] else "",
                "accuracy": numbers["accuracy"],
                "auc": numbers["auc"],
                "loss": defined(entry.get("cross_fitted_log_loss")),
                **{f"weight-{facts.keys[name]}": share for name, share in shares},
            }
        )
    columns = [
        Column("kind", "Weighting"),
        Column("shipped", "Ships"),
        Column("accuracy", "Accuracy", "percent", better="higher"),
        Column("auc", "AUC", "number", better="higher"),
        Column(
            "loss", "Log loss", "number", "Where weights are chosen, by weights that had not seen the image.", "lower"
        ),
        *(Column(f"weight-{facts.keys[name]}", name, "number", "Weight of this detector.") for name in facts.models),
    ]
    title = f"Ways of weighing the detectors, {shipped[1]}"
    return [Table("ensembles-table", title, columns, rows)]


def _paired(facts: Facts) -> list[Table]:
    """The shipped ensemble against each member of its phase, on the same images."""
    whole = facts.shipped
    if whole is None or len(facts.models) < 2:
        return []
    others = {name: facts.subjects.get((name, whole.phase)) for name in facts.models}
    known = {name: subject for name, subject in others.items() if subject is not None}
    tests = {name: mcnemar(whole.right, subject.right) for name, subject in known.items()}
    areas = {
        name: paired_delong(whole.judged.margin, subject.judged.margin, whole.labels) for name, subject in known.items()
    }
    adjusted = holm([test.p_value for test in tests.values()]).tolist()
    rows: list[Mapping[str, Cell]] = [
        {
            "detector": name,
            "difference": difference(test),
            "p": test.p_value,
            "holm": defined(p),
            "auc": difference(areas[name]),
            "auc_p": Estimate(defined(areas[name].p_value)),
        }
        for (name, test), p in zip(tests.items(), adjusted, strict=True)
    ]
    columns = [
        _MODEL,
        Column("difference", "Accuracy, ensemble minus it", "percent", "Points of accuracy; Agresti-Min interval."),
        Column("p", "p", "number", "Exact McNemar test, two-sided."),
        Column("holm", "p, Holm", "number", "Adjusted for the number of comparisons in this table."),
        Column("auc", "AUC, ensemble minus it", "number", "DeLong, paired."),
        Column("auc_p", "p (AUC)", "number", "Not adjusted."),
    ]
    title = f"Is the shipped ensemble better than its members? ({whole.phase}, the same images)"
    note = "From p = 0.05 on the two cannot be told apart on these images."
    return [Table("paired-table", title, columns, rows, note)]


def _calibration(facts: Facts) -> Table:
    rows: list[Mapping[str, Cell]] = []
    for (model, phase), subject in facts.subjects.items():
        fitted, decision = subject.fitted, subject.decision
        after = measured(fitted, subject.labels) if fitted else {}
        rows.append(
            {
                "detector": model,
                "phase": phase,
                "temperature": decision.temperature if decision else None,
                "threshold": decision.threshold if decision else None,
                "fitted_on": f"{decision.fitted_on}, {decision.n:,} images" if decision else None,
                "accuracy_raw": subject.before["accuracy"],
                "accuracy": after.get("accuracy"),
                "ece_raw": subject.before["ece"].value,
                "ece": after["ece"].value if after else None,
                "loss_raw": subject.before["log_loss"].value,
                "loss": after["log_loss"].value if after else None,
            }
        )
    columns = [
        _MODEL,
        _PHASE,
        Column("temperature", "Temperature", "number", "Above 1 the network was over-confident."),
        Column("threshold", "Threshold", "number", "P(fake) from which an image is called fake."),
        Column("fitted_on", "Fitted on"),
        Column(
            "accuracy_raw", "Accuracy before", "percent", "P(fake) of the network as it is, threshold 0.5.", "higher"
        ),
        Column("accuracy", "Accuracy after", "percent", better="higher"),
        Column("ece_raw", "ECE before", "number", "Mean gap of confidence and accuracy, equal-mass bins.", "lower"),
        Column("ece", "ECE after", "number", better="lower"),
        Column("loss_raw", "Log loss before", "number", better="lower"),
        Column("loss", "Log loss after", "number", better="lower"),
    ]
    part = next(iter(facts.subjects.values())).part
    crossed = "Out of fold, each fold is judged by a decision fitted on the others; shown is the shipped one."
    title = "Before and after calibration"
    return Table("calibration-table", title, columns, rows, crossed if part == "oof" else "", "phase")


def _abstention(facts: Facts) -> list[Table]:
    """What the abstention band does on the judged images; only where it was not fitted on them."""
    rows: list[Mapping[str, Cell]] = []
    for (model, phase), subject in facts.subjects.items():
        entry = facts.material.fitted.get(phase, {})
        shipped = facts.material.shipped
        kept = entry.get("members", {}).get(model) if model != "ensemble" else None
        if model == "ensemble" and shipped:
            kept = entry.get("ensembles", {}).get(shipped[0])
        if subject.part != "test" or not kept or not kept.get("band"):
            continue
        scored = score_band(Band.from_dict(kept["band"]), subject.margin, subject.labels)
        rows.append(
            {
                "detector": model,
                "phase": phase,
                "abstained": scored.abstained,
                "error": Estimate(defined(scored.error)),
                "coverage": scored.coverage,
                "n": scored.n,
            }
        )
    alpha = facts.material.config.ensemble.alpha
    columns = [
        _MODEL,
        _PHASE,
        Column("abstained", "Abstains", "percent", "Images without a verdict.", "lower"),
        Column("error", "Error of its verdicts", "percent", better="lower"),
        Column(
            "coverage", "Not excluded", "percent", f"Images whose true class stays possible; asked for: {1 - alpha:g}."
        ),
        Column("n", "Images", "count"),
    ]
    return [Table("abstention-table", "With leave to abstain (rdf predict --abstain)", columns, rows)] if rows else []
