"""Run folders as `rdf train-all`, `attack`, `corrupt`, `audit` and `explain` leave them, without any training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
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
from robustbench_df.records import Predictions
from robustbench_df.run import Run, open_run
from robustbench_df.rundir import create_run, write_json
from tests.report.evaluations import PHASES, write_attacks, write_corruptions
from tests.report.explained import write_explained

MODELS = ("convnext_tiny", "efficientnet_b0", "resnet_se")
SKILL = {"convnext_tiny": 1.3, "efficientnet_b0": 2.0, "resnet_se": 3.0, "ensemble": 3.0}
"""Mean margin of a detector on fakes; its negative on reals."""
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
