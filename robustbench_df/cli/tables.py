"""Tables for the terminal, drawn from the run's own results."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from robustbench_df.cli.audit_tables import print_allowed
from robustbench_df.cli.console import out
from robustbench_df.ensembling import DEDUPLICATED
from robustbench_df.metrics.weights import WEIGHTINGS
from robustbench_df.records import Result
from robustbench_df.run import Run
from robustbench_df.summary import best_member, find, judged_part
from robustbench_df.wording import figure, interval, listed

PART_NAMES = {"test": "the test part", "oof": "out-of-fold images", "cal": "the cal part", "val": "the val part"}


def _percent(result: Result | None) -> str:
    return "not run" if result is None else interval(result.value, result.low, result.high, ".1%")


def _number(result: Result | None) -> str:
    return "not run" if result is None else interval(result.value, result.low, result.high, ".4f", ends=".3f")


def _share(result: Result | None) -> str:
    return "not run" if result is None else figure(result.value, ".3f")


def summary_rows(run: Run) -> list[dict[str, Any]]:
    """Return the rows of the summary table and of ``--json``: one per detector and phase, then one per ensemble."""
    results = run.results()
    part = judged_part({r.part for r in results})
    kind_shipped, phase_shipped = run.shipped["kind"], run.shipped["phase"]
    attack = next((r.condition for r in results if r.condition != "clean"), "")
    weights = dict(zip(run.models, run.weights().weights, strict=True))
    twins = any(r.part == DEDUPLICATED for r in results)
    rows = []
    names = [(name, phase) for name in run.models for phase in ("base", "final")]
    names += [(f"ensemble-{kind}", phase_shipped) for kind in WEIGHTINGS]
    other = "base" if phase_shipped == "final" else "final"
    names.append((f"ensemble-{kind_shipped}", other))
    for name, phase in names:
        is_shipped = name == f"ensemble-{kind_shipped}" and phase == phase_shipped
        attacked = "ensemble" if name == f"ensemble-{kind_shipped}" else name

        def number(
            metric: str, model: str = name, phase: str = phase, condition: str = "clean", part: str = part
        ) -> Result | None:
            return find(
                results, model=model, phase=phase, condition=condition, part=part, decision="calibrated", metric=metric
            )

        rows.append(
            {
                "detector": name,
                "phase": phase,
                "shipped": is_shipped,
                "weight": weights.get(name) if phase == phase_shipped else None,
                "accuracy": number("accuracy"),
                **({"deduplicated": number("accuracy", part=DEDUPLICATED)} if twins else {}),
                "auc": number("auc"),
                "f1": number("f1"),
                "confusion": [number(m) for m in ("true_real", "false_fake", "false_real", "true_fake")],
                "attacked": number("accuracy", attacked, phase, attack),
            }
        )
    return rows


def _best_member(run: Run) -> str:
    """Return the best member of the shipped phase."""
    return best_member({name: run.predictions(name, run.shipped["phase"]) for name in run.models})


def summary_json(run: Run) -> dict[str, Any]:
    """Return the summary, for `console.print_json`."""

    def plain(value: Any) -> Any:
        if isinstance(value, Result):
            return {"value": value.value, "low": value.low, "high": value.high, "n": value.n}
        return [plain(v) for v in value] if isinstance(value, list) else value

    rows = [{key: plain(value) for key, value in row.items()} for row in summary_rows(run)]
    return {
        "run": str(run.path),
        "part": judged_part({r.part for r in run.results()}),
        "best_single": _best_member(run),
        "allowed_findings": list(run.allowed_findings),
        "rows": rows,
    }


_WIDE = 140
"""Columns of a terminal in which no number of the whole summary table is cut."""


def print_summary(run: Run) -> None:
    """Print the summary table and where everything is."""
    results = run.results()
    part, rows, best = judged_part({r.part for r in results}), summary_rows(run), _best_member(run)
    n = next(r.n for r in results if r.part == part)
    epsilon = run.config.phase2.select_epsilon
    table = Table(
        title=f"{run.name}: accuracy after calibration on {n} images of {PART_NAMES[part]}, 95% intervals",
        title_justify="left",
    )
    table.add_column("detector", no_wrap=True)
    table.add_column("phase")
    without = next((row["deduplicated"].n for row in rows if row.get("deduplicated")), None)
    # The attack runs on a part of the images only (attack_images).
    attacked = next((f", n={row['attacked'].n}" for row in rows if row["attacked"]), "")
    narrow = out.width < _WIDE
    headings = ["accuracy", "AUC", f"FGSM ε={epsilon:g}{attacked}"]
    if not narrow:
        headings = ["weight", *headings[:2], "F1", "tn/fp/fn/tp", headings[2]]
    if without is not None:
        headings.insert(headings.index("AUC"), f"without {n - without} twins")
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        single = row["detector"] == best and row["phase"] == run.shipped["phase"]
        mark = " ◀ ship" if row["shipped"] else " ★" if single else ""
        weight = "" if row["weight"] is None else f"{row['weight']:.3f}"
        confusion = "/".join(str(int(c.value)) if c else "?" for c in row["confusion"])
        table.add_row(
            row["detector"] + mark,
            row["phase"],
            *([] if narrow else [weight]),
            _percent(row["accuracy"]),
            *([_percent(row["deduplicated"])] if without is not None else []),
            _number(row["auc"]),
            *([] if narrow else [_share(row["f1"]), confusion]),
            _percent(row["attacked"]),
            style="bold" if row["shipped"] else "",
        )
    out.print(table)
    if narrow:
        out.print(Text(f"Weights, F1 and confusion need {_WIDE} columns; they are in results.json and ensemble.json."))
    fitted = {
        "oof": "out-of-fold predictions; clean numbers come from fits that had not seen the image",
        "cal": "val (weights) and cal (temperature, threshold): these numbers are optimistic, there is no test part",
        "val": "val: these numbers are optimistic, there is no test part",
    }
    source = fitted.get(part, "val (weights) and cal (temperature, threshold)")
    if run.config.ensemble.weights == "auto":
        out.print(Text("The kind of ensemble was chosen by its cross-fitted log loss on val or out of fold."))
    out.print(Text("◀ ship: what rdf predict uses; ★ the best single detector on val or out of fold."))
    out.print(Text(f"Fitted on {source}."))
    out.print(
        Text(
            "Intervals: Wilson for shares and DeLong for the AUC, or, where images have groups, a bootstrap of whole "
            "groups; none holds the variance between training seeds."
        )
    )
    out.print(
        Text(
            "base: after clean training; final: after adversarial fine-tuning. "
            f"FGSM ε={epsilon:g} ({epsilon * 255:.4g}/255): accuracy after one gradient step; "
            "surviving it does not make a detector robust."
        )
    )
    if run.refitted:
        out.print(Text("Refitted on all labelled images for a submission: no validation number belongs to that one."))
    if without is not None:
        out.print(Text("twins: images of the given test part that have a copy, exact or near, outside it."))
    print_allowed(run)
    findings = run.read_json("findings.json")["findings"]
    if findings:
        out.print(Text(f"{len(findings)} findings in the data: {run.file('findings.json')}", style="yellow"))
    out.print(Text(f"Run: {run.path}   numbers: {run.file('results.json')}   weights: {run.file('ensemble.json')}"))
    out.print(Text(f"Next: rdf predict FOLDER_OR_ZIP --run {run.path}"))


def print_data_info(facts: dict[str, Any]) -> None:
    """Print what `robustbench_df.data.info.describe` found."""
    out.print(Text(f"{facts['origin']}: {facts['images']} images, layout {facts['layout']}"))
    classes = sorted({c for counts in facts["splits"].values() for c in counts})
    table = Table("split", *classes)
    for part, counts in facts["splits"].items():
        table.add_row("not given" if part == "none" else part, *(str(counts.get(c, 0)) for c in classes))
    out.print(table)
    for label in ("sizes", "formats"):
        out.print(Text(f"{label}: " + listed((f"{count} of {name}" for name, count in facts[label].items()), 8)))
    if facts["compared_at"]:
        out.print(
            Text(f"duplicates were looked for at {facts['compared_at']} px; training needs --size", style="yellow")
        )
    if facts["groups"]:
        out.print(Text(f"groups: {facts['groups']}"))
    if len(facts["sources"]) > 1:
        out.print(Text("sources: " + listed((f"{k or '(none)'} × {v}" for k, v in facts["sources"].items()), 10)))
    twins = facts["duplicates"]
    if twins["groups"]:
        line = (
            f"exact duplicates: {twins['groups']} groups ({twins['extra']} images more than needed), "
            f"{twins['across_class']} across classes, {twins['across_split']} across given splits, "
            f"{twins['with_unlabelled']} between labelled and unlabelled"
        )
        out.print(Text(line, style="yellow"))
        for example in twins["examples"]:
            out.print(Text("  " + " = ".join(example)))
    else:
        out.print(Text("exact duplicates: none"))
    if facts["predictions"]:
        out.print(Text(_agreement(facts["predictions"])))
    for kind, count in facts["finding_counts"].items():
        out.print(Text(f"{kind}: {count}", style="yellow"))
    for finding in facts["findings"][:20]:
        out.print(Text(f"  {finding['where']}: {finding['detail']}"))
    if len(facts["findings"]) > 20:
        out.print(Text(f"  … and {len(facts['findings']) - 20} more; all of them with --json"))


def _agreement(said: dict[str, Any]) -> str:
    """Return one line about the black-box predictions (`robustbench_df.data.info.agreement`)."""
    classes = [f"{name} {c['agree']} of {c['n']}" for name, c in said["classes"].items()]
    without = f"; {said['without']} images have none" if said["without"] else ""
    return (
        f"black-box predictions: {said['agree']} of {said['n']} agree with the folder ({said['share']:.1%}; "
        f"{', '.join(classes)}){without}"
    )
