"""A finished run folder as `train_all` leaves it, written by hand: no training, so that a test can spoil any file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from robustbench_df.config import RunConfig, SplitConfig, load_config
from robustbench_df.data.demo import demo_set
from robustbench_df.data.imageset import ImageSet, image_set_from_arrays
from robustbench_df.data.split import Split, make_folds, make_split, split_rows
from robustbench_df.ensembling import fit_ensembles
from robustbench_df.records import Predictions
from robustbench_df.run import Run, open_run
from robustbench_df.rundir import create_run, write_json

MODELS = ("mlp", "resnet_se_small")
COPIES, ADVERSARIAL = 12, 6


def distinct_set() -> ImageSet:
    """The demo set's pictures, one of each tile, real and fake in turn: no two show the same."""
    demo = demo_set(count=600)
    tiles = sorted(set(demo.groups))
    rows = [np.flatnonzero((demo.groups == tile) & (demo.labels == k % 2))[0] for k, tile in enumerate(tiles)]
    return image_set_from_arrays(demo.data[rows], demo.labels[rows], ids=[str(name) for name in demo.ids[rows]])


def write_run(path: Path, images: ImageSet, folds: int = 1) -> Run:
    """Write split, copies, predictions and ensemble of a run that did everything right."""
    overrides = [f"models={list(MODELS)}", "per_model={}", "ensemble.phase=final"]
    overrides += [f"phase1.copies={COPIES}", f"phase2.copies={COPIES}", f"phase2.adversarial_copies={ADVERSARIAL}"]
    config = load_config("quick", overrides=overrides, data={"source": images.origin or "demo"}, split={"folds": folds})
    create_run(config, path)
    run = Run(path)
    splits = _splits(images, config)
    write_json(run.file("provenance.json"), {"data_fingerprint": images.fingerprint})
    pd.DataFrame(split_rows(splits), columns=["image_id", "part", "fold"]).to_parquet(run.file("split.parquet"))
    rng = np.random.default_rng(0)
    for name in MODELS:
        for k, split in enumerate(splits):
            write_copies(run.model_dir(name, k if folds > 1 else None), images, split, rng)
        for phase in ("base", "final"):
            table = _predictions(images, splits, name, phase, rng)
            Predictions(table, images.fingerprint).save(run.predictions_path(name, phase, "clean"))
    fit_ensembles(run, images, ("base", "final"))
    run.file("DONE").touch()
    return open_run(path)


def _splits(images: ImageSet, config: RunConfig) -> list[Split]:
    settings = config.split.model_copy(update={"seed": 0})
    assert isinstance(settings, SplitConfig)
    folds = settings.fold_count(len(images))
    return make_folds(images, settings, folds) if folds > 1 else [make_split(images, settings)]


def write_copies(folder: Path, images: ImageSet, split: Split, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    kinds = {"base": ["augmented"] * COPIES, "final": ["augmented"] * COPIES + ["adversarial"] * ADVERSARIAL}
    for phase, made in kinds.items():
        rows = rng.choice(split.train, len(made), replace=False)
        copies = [
            {"kind": kind, "source": str(images.ids[i]), "label": int(images.labels[i])}
            for kind, i in zip(made, rows, strict=True)
        ]
        write_json(folder / f"{phase}-copies.json", copies)
        (folder / f"{phase}.safetensors").touch()


def _predictions(
    images: ImageSet, splits: list[Split], name: str, phase: str, rng: np.random.Generator
) -> pd.DataFrame:
    if len(splits) == 1:
        parts = [(part, -1, splits[0].part(part)) for part in ("val", "cal", "test")]
    else:
        parts = [("oof", k, split.cal) for k, split in enumerate(splits)] + [("test", -1, splits[0].test)]
    tables = []
    for part, fold, index in parts:
        labels = images.labels[index]
        # Right on nine images in ten, whatever the label says.
        margin = rng.normal(np.where(labels == 1, 2.6, -2.6), 2.0)
        tables.append(
            pd.DataFrame(
                {
                    "model": name,
                    "phase": phase,
                    "condition": "clean",
                    "image_id": images.ids[index].astype(str),
                    "label": labels,
                    "part": part,
                    "fold": np.int16(fold),
                    "logit_real": np.zeros(len(index), np.float32),
                    "logit_fake": margin.astype(np.float32),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def spoil_json(path: Path, change: object) -> None:
    """Read a JSON file, let ``change`` alter it in place, write it back."""
    value = json.loads(path.read_text())
    assert callable(change)
    change(value)
    path.write_text(json.dumps(value))
