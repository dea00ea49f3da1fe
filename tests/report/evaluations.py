"""What `rdf attack` and `rdf corrupt` add to a run folder, without any attack or corruption."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from robustbench_df.metrics.calibration import Decision
from robustbench_df.metrics.scores import Floats, margins
from robustbench_df.records import Predictions
from robustbench_df.run import Run
from robustbench_df.rundir import write_json

PHASES = ("base", "final")
EPSILONS = (0.02, 0.05)
SUITES = {"fgsm": ["fgsm"], "standard": ["apgd", "fab", "square"]}
CORRUPTIONS = ("gaussian_noise", "gaussian_blur", "jpeg_compression", "fog")
SEVERITIES = (1, 3, 5)


def write_attacks(run: Run, count: int = 48) -> None:
    """Cells of FGSM and the standard suite, checks, and a transfer matrix."""
    for model, phase in _pairs(run):
        clean = _deployed_margins(run, model, phase)[:count]
        for suite, attacks in SUITES.items():
            for eps in EPSILONS:
                table = _attacked(clean, model, phase, suite, eps)
                specs = [{"name": name, "eps": eps, "norm": "linf"} for name in attacks]
                notes = {"attack": suite, "attacks": specs, "norm": "linf", "eps": eps, "seed": 0, "seconds": 1.5}
                name = f"{model}-{phase}-{suite}-linf-{eps:g}-0123abcd.parquet"
                Predictions(table, run.fingerprint, notes).save(run.file("attacks", name))
    fallen = {"status": "warn", "detail": "57% survive FGSM, 4% standard", "remedy": "quote the other number"}
    checks = {
        f"ensemble · {run.shipped['phase']}": [
            {
                "id": "cells-one-step",
                "about": "standard, L∞ 0.02",
                "figures": {"fgsm": 0.57, "standard": 0.04},
                **fallen,
            },
            {"id": "bounds", "about": "linf", "status": "pass", "detail": "all kept", "figures": {}, "remedy": ""},
        ],
        "resnet_se · final": [
            {
                "id": "cells-overfitting",
                "about": "standard, L∞ 0.05",
                "status": "fail",
                "detail": "L∞ 0.05: FGSM 31% → 57%, standard 8% → 4%",
                "figures": {},
                "remedy": "train with --objective pgd or trades",
            }
        ],
    }
    write_json(run.file("attacks", "checks.json"), checks)
    names = [*run.models, "ensemble"]
    accuracy = {a: {b: 0.1 if a == b else 0.6 for b in names} for a in names}
    about = {"threat": "pgd, 20 steps, L∞ 0.08 (20.4/255)", "phase": run.shipped["phase"], "n": 200}
    write_json(run.file("attacks", "transfer.json"), {**about, "scored_on": names, "accuracy": accuracy})


def _attacked(clean: pd.DataFrame, model: str, phase: str, suite: str, eps: float) -> pd.DataFrame:
    margin, label = clean["deployed"].to_numpy(), clean["label"].to_numpy()
    signed = np.where(label == 1, margin, -margin)
    correct = (margin >= 0) == (label == 1)
    pushed = signed - eps * (60 if suite == "standard" else 25) * (1.2 if phase == "base" else 1.0)
    success = correct & (pushed < 0)
    after = np.where(label == 1, pushed, -pushed)
    half = np.asarray(margin / 2, np.float32)
    table = _shown(clean, np.where(correct, after, margin), model, phase, f"{suite}-linf-{eps:g}")
    numbers = {"first_step": 1, "distance": eps, "nearest": eps, "forwards": 4, "backwards": 2}
    return table.assign(
        clean_logit_real=-half,
        clean_logit_fake=half,
        correct=correct,
        success=success,
        **numbers,
        by=np.where(success, 0, -1),
        not_finite=0,
        zero_gradients=0,
    )


def write_corruptions(run: Run, count: int = 48) -> None:
    """Cells of every detector after clean training, and of the ensemble as shipped."""
    for model in (*run.models, "ensemble"):
        phase = run.shipped["phase"] if model == "ensemble" else "base"
        clean = _deployed_margins(run, model, phase)[:count]
        for name, severity in [("clean", 0), *((c, s) for c in CORRUPTIONS for s in SEVERITIES)]:
            condition = f"{name}-{severity}" if severity else name
            # Blur moves every score and keeps the ranking; the others shrink the margin.
            blurred = name == "gaussian_blur"
            margin = clean["deployed"].to_numpy() * (1 if blurred else 1 - 0.15 * severity) + severity * 0.8 * blurred
            noise = np.random.default_rng([severity, len(name)]).normal(0, 0.5 * severity, len(clean))
            table = _shown(clean, margin + (0 if blurred else noise), model, phase, condition)
            notes = {"corruption": name, "severity": severity, "constants": "cifar" if severity else None}
            notes |= {"made_with": [severity] if severity else [], "seed": 0}
            notes |= {"seconds": 0.05, "corrupting_seconds": 0.01}
            path = run.file("corruptions", f"{model}-{phase}-{condition}-0123456789ab.parquet")
            Predictions(table, run.fingerprint, notes).save(path)


def _pairs(run: Run) -> Iterator[tuple[str, str]]:
    for name in (*run.models, "ensemble"):
        for phase in PHASES:
            yield name, phase


def _deployed_margins(run: Run, model: str, phase: str) -> pd.DataFrame:
    """Clean table of the judged part with the column ``deployed``: the margin after temperature and threshold."""
    tables = [run.predictions(name, phase) for name in (run.models if model == "ensemble" else (model,))]
    table = tables[0].table.copy()
    logits = np.stack([own.logits for own in tables])
    margin: Floats = margins(run.weights(phase=phase).combine(logits) if model == "ensemble" else logits[0])
    table["deployed"] = _deploy(margin, run.decision(model, phase))
    part = next(part for part in ("test", "oof") if (table["part"] == part).any())
    return table[table["part"] == part].reset_index(drop=True)


def _deploy(margin: Floats, decision: Decision) -> Floats:
    return margin / decision.temperature - decision.offset


def _shown(table: pd.DataFrame, margin: Floats, model: str, phase: str, condition: str) -> pd.DataFrame:
    names = {"model": model, "phase": phase, "condition": condition}
    half = np.asarray(margin / 2, np.float32)
    return table[["image_id", "label", "part", "fold"]].assign(**names, logit_real=-half, logit_fake=half)
