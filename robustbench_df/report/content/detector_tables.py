"""The tables beside that of the detectors: kinds of weighting, paired tests, calibration, and abstention."""

from __future__ import annotations

from collections.abc import Mapping

from robustbench_df.errors import DataError
from robustbench_df.metrics.calibration import BandScores, score_band, score_cross_fitted
from robustbench_df.metrics.compare import holm, mcnemar, paired_delong
from robustbench_df.report.content.facts import Facts
from robustbench_df.report.content.judging import Subject, ensembles_of, measured, weights_of
from robustbench_df.report.content.words import PHASE_HINT, defined, difference
from robustbench_df.report.document import Cell, Column, Estimate, Table

MODEL = Column("detector", "Detector", hint="The ensemble is the shipped kind of weighting.")
PHASE_COLUMN = Column("phase", "Phase", hint=PHASE_HINT)


def ensembles(facts: Facts) -> list[Table]:
    """Return the table of all kinds of weighting in the shipped phase."""
    shipped = facts.material.shipped
    if shipped is None or len(facts.models) < 2:
        return []
    rows: list[Mapping[str, Cell]] = []
    for kind, subject in ensembles_of(facts.material, shipped[1]).items():
        weights = weights_of(facts.material, kind, shipped[1])
        entry = facts.material.fitted[shipped[1]]["ensembles"][kind]
        numbers = measured(subject.judged, subject.labels, subject.groups)
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


def paired(facts: Facts) -> list[Table]:
    """Return the paired comparison of the shipped ensemble with each member of its phase, on the same images."""
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
        MODEL,
        Column("difference", "Accuracy, ensemble minus it", "percent", "Points of accuracy; Agresti-Min interval."),
        Column("p", "p", "number", "Exact McNemar test, two-sided."),
        Column("holm", "p, Holm", "number", "Adjusted for the number of comparisons in this table."),
        Column("auc", "AUC, ensemble minus it", "number", "DeLong, paired."),
        Column("auc_p", "p (AUC)", "number", "Not adjusted."),
    ]
    title = f"Is the shipped ensemble better than its members? ({whole.phase}, the same images)"
    note = "From p = 0.05 on the two cannot be told apart on these images."
    return [Table("paired-table", title, columns, rows, note)]


def calibration(facts: Facts) -> Table:
    """Return the table of every detector before and after calibration (temperature and threshold)."""
    rows: list[Mapping[str, Cell]] = []
    for (model, phase), subject in facts.subjects.items():
        fitted, decision = subject.fitted, subject.decision
        after = measured(fitted, subject.labels, subject.groups) if fitted else {}
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
        MODEL,
        PHASE_COLUMN,
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


def abstention(facts: Facts) -> list[Table]:
    """Return the results of the abstention band on the judged images, for bands that were not fitted on them."""
    rows: list[Mapping[str, Cell]] = []
    for (model, phase), subject in facts.subjects.items():
        scored = _banded(facts, subject)
        if scored is not None:
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
        MODEL,
        PHASE_COLUMN,
        Column("abstained", "Abstains", "percent", "Images without a verdict.", "lower"),
        Column("error", "Error of its verdicts", "percent", better="lower"),
        Column(
            "coverage", "Not excluded", "percent", f"Images whose true class stays possible; asked for: {1 - alpha:g}."
        ),
        Column("n", "Images", "count"),
    ]
    return [Table("abstention-table", "With leave to abstain (rdf predict --abstain)", columns, rows)] if rows else []


def _banded(facts: Facts, subject: Subject) -> BandScores | None:
    """Score the stored band; out of fold, where that was fitted on every image, score bands cross-fitted by fold."""
    band = facts.material.run.band(subject.model, subject.phase) if subject.decision is not None else None
    if band is None:
        return None
    if subject.part == "test":
        return score_band(band, subject.margin, subject.labels)
    if subject.part != "oof":
        return None
    known = subject.margin, subject.labels, subject.table["fold"].to_numpy()
    try:
        return score_cross_fitted(*known, *known, facts.material.config.ensemble.alpha)
    except DataError:  # too few images: the other folds have only one class
        return None
