"""Run folders as `rdf train-all`, `attack`, `corrupt`, `audit` and `explain` leave them, without any training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from robustbench_df.audit.finding import Audit, AuditFinding
from robustbench_df.config import RunConfig, load_config
from robustbench_df.data.imageset import Finding, ImageSet, image_set_from_arrays
from robustbench_df.data.split import Split, make_folds, make_split, split_rows
from robustbench_df.ensembling import fit_ensembles, write_results
from robustbench_df.metrics.calibration import Decision
from robustbench_df.metrics.scores import Floats, margins
from robustbench_df.records import Predictions, load_predictions
from robustbench_df.run import Run, open_run
from robustbench_df.rundir import create_run, write_json

MODELS = ("convnext_tiny", "efficientnet_b0", "resnet_se")
SKILL = {"convnext_tiny": 1.3, "efficientnet_b0": 2.0, "resnet_se": 3.0, "ensemble": 3.0}
"""Mean margin of a detector on fakes; its negative on reals."""
PHASES = ("base", "final")
EPSILONS = (0.02, 0.05)
SUITES = {"fgsm": ["fgsm"], "standard": ["apgd", "fab", "square"]}
CORRUPTIONS = ("gaussian_noise", "gaussian_blur", "jpeg_compression", "fog")
SEVERITIES = (1, 3, 5)
HOSTILE = (
    "real/<script>alert(1)</script>.png",
    "real/a\"quote\" & 'another'.png",
    "fake/right\u202eto left.png",
    "fake/line\nbreak.png",
    "fake/=1+1.png",
)
"""File names that somebody may have chosen to break a page."""


def some_images(n: int = 240, size: int = 16) -> ImageSet:
    """Noise in groups of two, from two sources; the fakes are brighter. Some names are hostile."""
    rng = np.random.default_rng(7)
    labels = np.arange(n) % 2
    data = rng.integers(0, 180, (n, 3, size, size)) + 60 * labels[:, None, None, None]
    ids = [f"{'fake' if label else 'real'}/{k:04d}.png" for k, label in enumerate(labels)]
    for name in HOSTILE:
        wanted = int(name.startswith("fake"))
        ids[next(k for k in range(n) if labels[k] == wanted and ids[k] not in HOSTILE)] = name
    return image_set_from_arrays(
        data.astype(np.uint8),
        labels,
        ids=ids,
        groups=[f"scene {k // 4}" for k in range(n)],
        sources=["camera" if k % 3 else "<b>web</b>" for k in range(n)],
        origin="synthetic.zip",
        layout="folders",
    )


def write_run(
    path: Path,
    *,
    folds: int = 1,
    images: ImageSet | None = None,
    models: Sequence[str] = MODELS,
    extras: bool = True,
    seed: int = 0,
) -> Path:
    """Write a finished run; with ``extras`` also what `rdf attack`, `corrupt`, `audit` and `explain` add to it."""
    images = some_images() if images is None else images
    config = load_config(
        "full", models=tuple(models), seed=seed, data={"source": "synthetic.zip"}, split={"folds": folds}, per_model={}
    )
    create_run(config, path)
    run = Run(path)
    splits = _splits(images, config, folds)
    pd.DataFrame(split_rows(splits), columns=["image_id", "part", "fold"]).to_parquet(run.file("split.parquet"))
    about = {"image_id": images.ids, "group": images.groups, "source": images.sources}
    known = pd.DataFrame({name: values.astype(str) for name, values in about.items()}).assign(label=images.labels)
    known.to_parquet(run.file("images.parquet"))
    write_json(run.file("provenance.json"), _provenance(images, models, seed))
    finding = Finding("unreadable", "real/broken\n<i>.png", "truncated file")
    write_json(run.file("findings.json"), {"findings": [asdict(finding)]})
    write_json(run.file("speed.json"), dict.fromkeys(models, _SETTING))
    for name in models:
        for k in range(len(splits)):
            _write_model(run.model_dir(name, k if folds > 1 else None), name)
        for phase in PHASES:
            for condition in ("clean", "fgsm-linf-0.05"):
                table = _table(images, splits, name, phase, condition, seed)
                notes = (
                    {"seconds": {"val": 0.01, "cal": 0.01, "test": 0.02, "oof": 0.1}} if condition == "clean" else {}
                )
                Predictions(table, images.fingerprint, notes).save(run.predictions_path(name, phase, condition))
    fit_ensembles(run, images, PHASES)
    for phase in PHASES:
        table = _table(images, splits, "ensemble", phase, "fgsm-linf-0.05", seed)
        Predictions(table, images.fingerprint).save(run.predictions_path("ensemble", phase, "fgsm-linf-0.05"))
    write_results(run, images, PHASES, ("fgsm-linf-0.05",))
    run.file("DONE").touch()
    if extras:
        run = open_run(path)
        write_attacks(run)
        write_corruptions(run)
        write_audit(run, images)
        write_explained(run, images)
    return path


_SETTING = {"device": "cpu", "precision": "fp32", "memory_format": "channels_last", "threads": 1, "measured": {}}


def _provenance(images: ImageSet, models: Sequence[str], seed: int) -> dict[str, Any]:
    return {
        "command": "rdf train-all --data synthetic.zip",
        "started": "2026-11-21T01:26:05+00:00",
        "seed": seed,
        "data_fingerprint": images.fingerprint,
        "versions": {"robustbench_df": "0.1.0", "python": "3.11.7", "torch": "2.14.1", "numpy": "2.4.6"},
        "hardware": {"system": "Linux x86_64", "processor": "A CPU", "cores": 2, "threads": 2, "device": "cpu"},
        "durations": {**{f"train {name}": 50.0 + k for k, name in enumerate(models)}, "evaluate": 20.5},
        "images": len(images),
        "layout": images.layout,
    }


def _splits(images: ImageSet, config: RunConfig, folds: int) -> list[Split]:
    settings = config.split.model_copy(
        update={"seed": config.seed, "train": 0.4, "val": 0.15, "cal": 0.2, "test": 0.25}
    )
    return make_folds(images, settings, folds) if folds > 1 else [make_split(images, settings)]


def _write_model(folder: Path, name: str) -> None:
    """Checkpoints of a few numbers, their description, and what they went through."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    tensors = {"net.weight": np.zeros((4, 8), np.float32), "net.bias": np.zeros(4, np.float32)}
    buffers = {"net.bn.running_mean": np.zeros(4, np.float32), "mean": np.zeros((1, 3, 1, 1), np.float32)}
    history: dict[str, list[dict[str, Any]]] = {
        "base": [{"phase": "base", "epoch": e, "loss": 0.7 / e, "val_auc": 0.6 + 0.05 * e} for e in range(1, 5)],
        "final": [{"phase": "final", "epoch": e, "loss": 0.9 / e, "val_auc": 0.8, "val_fgsm_auc": 0.4} for e in (1, 2)],
    }
    for phase in PHASES:
        save_file({**tensors, **buffers}, folder / f"{phase}.safetensors")
        write_json(folder / f"{phase}-copies.json", [])
        rows = [{**row, "val_accuracy": row["val_auc"] - 0.05, "val_loss": 0.5} for row in history[phase]]
        (folder / f"{phase}-history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_json(folder / "model.json", {"model": {"name": name}, "image_size": [16, 16]})


def _table(
    images: ImageSet, splits: Sequence[Split], model: str, phase: str, condition: str, seed: int
) -> pd.DataFrame:
    if len(splits) == 1:
        parts = [(part, -1, splits[0].part(part)) for part in ("val", "cal", "test")]
    else:
        parts = [("oof", k, split.cal) for k, split in enumerate(splits)]
    return pd.concat(
        [_rows(images, index, model, phase, condition, part, fold, seed) for part, fold, index in parts],
        ignore_index=True,
    )


def _rows(
    images: ImageSet,
    index: NDArray[np.intp],
    model: str,
    phase: str,
    condition: str,
    part: str,
    fold: int,
    seed: int,
) -> pd.DataFrame:
    labels = images.labels[index]
    key = [seed, sum(model.encode()), PHASES.index(phase), len(condition)]
    noise = np.random.default_rng(key).normal(0, 2, len(images))[index]
    skill = SKILL.get(model, 2.0) * (1 if condition == "clean" else 0.3)
    margin = (2 * labels - 1) * skill + noise
    return pd.DataFrame(
        {
            "model": model,
            "phase": phase,
            "condition": condition,
            "image_id": images.ids[index].astype(str),
            "label": labels,
            "part": part,
            "fold": np.int16(fold),
            "logit_real": (-margin / 2).astype(np.float32),
            "logit_fake": (margin / 2).astype(np.float32),
        }
    )


def deployed_margins(run: Run, model: str, phase: str) -> pd.DataFrame:
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


def _pairs(run: Run) -> Iterator[tuple[str, str]]:
    for name in (*run.models, "ensemble"):
        for phase in PHASES:
            yield name, phase


def write_attacks(run: Run, count: int = 48) -> None:
    """Cells of FGSM and the standard suite, checks, and a transfer matrix."""
    for model, phase in _pairs(run):
        clean = deployed_margins(run, model, phase)[:count]
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
            {"id": "one step against many", "figures": {"fgsm": 0.57, "standard": 0.04}, **fallen},
            {"id": "norms and bounds", "status": "pass", "detail": "all kept", "figures": {}, "remedy": ""},
        ],
        "resnet_se · final": [
            {
                "id": "catastrophic overfitting",
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
        clean = deployed_margins(run, model, phase)[:count]
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


def write_audit(run: Run, images: ImageSet) -> None:
    findings = (
        AuditFinding(
            "duplicates-across-splits",
            "fail",
            "Copies across parts",
            "3 images of test are in train",
            figures={"pairs": 3},
            images=((str(images.ids[0]), str(images.ids[1])),),
            remedy="leave them out",
        ),
        AuditFinding("sizes", "pass", "Sizes", "all 16 × 16"),
        AuditFinding("label-noise", "not run", "Label noise", "needs 500 images"),
        AuditFinding("shortcut-colour", "warn", "Colour", "AUROC 0.8 by colour alone", remedy="balance it"),
    )
    found = Audit(findings, images.origin, images.fingerprint, len(images))
    write_json(run.file("audit.json"), found.to_json())


def write_explained(run: Run, images: ImageSet) -> None:
    """`explain.json`, `specimens.json` and their pictures."""
    keep = _Pictures(run.file("explain", "pictures"))
    phase = run.shipped["phase"]
    names = [*run.models, "ensemble"]
    shown = [keep(pixels) for pixels in images.data[:12]]
    ids, labels = [str(name) for name in images.ids[:12]], [int(label) for label in images.labels[:12]]
    faithful = {"name": "extra drop", "value": 0.1, "low": 0.05, "high": 0.15, "n": 12, "meaning": "above 0 is good"}
    detectors = [
        {
            "model": name,
            "phase": phase,
            "layer": f"net.{name}.stages",
            "size": [4, 4],
            "sanity": {"correlation": 0.1, "passed": name != "convnext_tiny"},
            "faithfulness": faithful,
        }
        for name in names
    ]
    states = (("right", "clean"), ("wrong", "clean"), ("attacked", "fgsm-linf-0.05"), ("corrupted", "fog-3"))
    explained = [
        {
            "image_id": ids[k],
            "label": labels[k],
            "state": state,
            "condition": condition,
            "picture": shown[k],
            "maps": [
                {"model": name, "phase": phase, "p_fake": 0.75, "picture": shown[k + j + 4]}
                for j, name in enumerate(names)
            ],
        }
        for k, (state, condition) in enumerate(states)
    ]
    head = {"schema": 1, "fingerprint": run.fingerprint}
    about = {**head, "cam": "gradcam", "detectors": detectors, "images": explained}
    write_json(run.file("explain", "explain.json"), about)
    described = [
        {
            "image_id": ids[k],
            "label": labels[k],
            "picture": shown[k],
            "wrong_by": names[:2],
            "p_fake": dict.fromkeys(names, 0.4),
        }
        for k in range(4)
    ]
    specimens = {
        **head,
        "examples": [{"image_id": ids[k], "label": labels[k], "picture": shown[k]} for k in range(8)],
        "hardest": described,
        "disagreed": described[:2],
        "corruptions": [
            {"corruption": name, "severity": level, "image_id": ids[0], "picture": shown[(i + level) % 12]}
            for i, name in enumerate(CORRUPTIONS)
            for level in SEVERITIES
        ],
        "attacked": [
            {
                "image_id": ids[k],
                "label": labels[k],
                "model": name,
                "phase": phase,
                "attack": "fgsm",
                "eps": eps,
                "p_fake": 0.9 - 10 * eps,
                "picture": shown[k + 2],
            }
            for k in range(2)
            for name in names
            for eps in (0.0, *EPSILONS)
        ],
    }
    write_json(run.file("explain", "specimens.json"), specimens)


class _Pictures:
    """Keeps pixels as PNG under a key of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)

    def __call__(self, pixels: NDArray[np.uint8]) -> str:
        from PIL import Image

        key = f"{len(list(self._folder.iterdir())):016x}"
        Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(self._folder / f"{key}.png")
        return key


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    """Let ``change`` alter a JSON file's value in place."""
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def edit_table(path: Path, change: Callable[[pd.DataFrame], object] | None = None, **about: Any) -> None:
    """Let ``change`` alter a predictions table in place; ``about`` replaces its table, fingerprint or notes."""
    predictions = load_predictions(path)
    if change is not None:
        change(predictions.table)
    replace(predictions, **about).save(path)
