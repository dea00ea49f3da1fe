"""`rdf explain`: CAMs of a run's detectors and ensemble, checks of how far the maps can be trusted, example images.

Every detector explains the same images: some that the ensemble classifies correctly, some that it misclassifies, some
attacked and some corrupted. Detectors are used as deployed; with folds, each image is explained by the detectors that
have not seen it. The results are ``explain/explain.json``, ``explain/specimens.json`` and their pictures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field
from torch import Tensor

from robustbench_df import attack_plan
from robustbench_df.attack_plan import AttackPlan, WantedPart, choose_part
from robustbench_df.attacks.fgsm import fgsm
from robustbench_df.corruptions.catalogue import CORRUPTIONS
from robustbench_df.corruptions.suite import corrupt
from robustbench_df.data.imageset import ImageSet
from robustbench_df.devices import choose_device
from robustbench_df.errors import ModelError
from robustbench_df.evaluate import Condition
from robustbench_df.explaining import specimens, subjects
from robustbench_df.explaining.cams import blank, check_cam, layers_of
from robustbench_df.explaining.measuring import Gathered, measure, summary
from robustbench_df.explaining.pictures import drop_unnamed, keep_picture, keys_in, overlay
from robustbench_df.explaining.subjects import Clean, Look, Subject, as_input, as_pixels, bare, load_pixels, load_team
from robustbench_df.memory import keep_freed_memory
from robustbench_df.models.deployed import Deployed
from robustbench_df.progress import Reporter
from robustbench_df.robustness import Index
from robustbench_df.run import Run
from robustbench_df.rundir import write_json
from robustbench_df.settings import Count, Fraction, Settings

SCHEMA = 1
"""Version of the two JSON files."""

FOLDER, EXPLAINED, SPECIMENS = "explain", "explain.json", "specimens.json"


class ExplainPlan(Settings):
    """Settings of `rdf explain`."""

    models: tuple[str, ...] = ()
    """Names of detectors, also ``ensemble``; empty: all that have a feature map."""
    images: Annotated[int, Field(ge=1)] = 8
    """Number of explained images, a quarter each correct, misclassified, attacked and corrupted."""
    measured: Annotated[int, Field(ge=1)] = 48
    """Number of clean images, evenly spaced, on which the maps themselves are checked."""
    cam: str = "gradcam"
    """One of `robustbench_df.explaining.cams.CAMS`."""
    eps: Fraction = 0.05
    """L∞ budget of FGSM in pixels of [0, 1]; the ensemble is attacked, and all detectors explain the result."""
    corruption: str = "jpeg_compression"
    severity: Annotated[int, Field(ge=1, le=5)] = 3
    specimens: Count = 8
    """Number of images of each kind of specimen; half as many are attacked."""
    phase: Literal["auto", "base", "final"] = "auto"
    """``auto``: as shipped."""
    part: WantedPart = "auto"
    seed: int = 0
    device: str = "auto"
    batch: Annotated[int, Field(ge=1)] = 64


@dataclass(frozen=True, eq=False)
class Task:
    """The inputs that all steps share."""

    run: Run
    plan: ExplainPlan
    images: ImageSet
    clean: Clean
    """Verdicts on clean images by the shipped decisions, as the deployed detectors give them."""
    judged: Clean
    """Verdicts on the same images by decisions not fitted on them, as counted in the report's tables."""
    device: str

    @property
    def pictures(self) -> Path:
        """Folder of the run's pictures."""
        return self.run.file(FOLDER, "pictures")

    def keep(self, pixels: Tensor) -> list[str]:
        """Save uint8 images ``[N, 3, H, W]`` as pictures of the run; returns their keys."""
        return [keep_picture(self.pictures, own) for own in pixels.cpu().numpy()]

    def load(self, rows: Index) -> tuple[Tensor, Tensor, Tensor]:
        """Return pixels, labels and keys of clean rows."""
        return load_pixels(self.images, self.clean.ids[rows], self.device)


def explain(run: Run, plan: ExplainPlan | None = None, reporter: Reporter | None = None) -> dict[str, Any]:
    """Explain a run's detectors; returns the content of ``explain.json``, which is written last.

    If results of the same plan and run already exist, they are returned and nothing is computed.

    Raises:
        UsageError: an unknown model, part, cam, corruption or device.
        RunError: the run is not finished, busy or damaged, or its images have changed.
        ModelError: a detector requested by name, or every detector, has no usable feature map; or all maps of a
            detector are blank.
    """
    plan, reporter = plan or ExplainPlan(), reporter or Reporter()
    check_cam(plan.cam)
    _ = CORRUPTIONS[plan.corruption]
    places = AttackPlan(attacks=(), models=plan.models, part=plan.part)
    attack_plan.plan_cells(run, places)  # without attacks it only checks: run, models and part
    part, phase = choose_part(run, plan.part), run.shipped["phase"] if plan.phase == "auto" else plan.phase
    stamp = {"schema": SCHEMA, "fingerprint": run.fingerprint, "made_from": _digest(run, plan, part)}
    known = _finished(run, stamp)
    if known is not None:
        reporter.say(f"nothing to do: {run.file(FOLDER, EXPLAINED)} was made with these settings")
        return known
    device = choose_device(plan.device)
    clean, judged = subjects.clean_answers(run, phase, part), subjects.judged_answers(run, phase, part)
    task = Task(run, plan, run.images(), clean, judged, device)
    with run.lock():
        keep_freed_memory()
        explained, shown = _explain(task, reporter)
        explained, shown = {**stamp, "cam": plan.cam, "part": part, **explained}, {**stamp, **shown}
        write_json(run.file(FOLDER, SPECIMENS), shown)
        write_json(run.file(FOLDER, EXPLAINED), explained)
        drop_unnamed(run.file(FOLDER, "pictures"), explained, shown)
    return explained


def _digest(run: Run, plan: ExplainPlan, part: str) -> str:
    """Return a digest of everything that the files depend on, including the part that ``auto`` was resolved to."""
    what = [plan.model_dump(mode="json", exclude={"device", "batch"}), part, run.read_json("ensemble.json")]
    return hashlib.blake2b(json.dumps([*what, specimens.corruptions_of(run)]).encode(), digest_size=8).hexdigest()


def _finished(run: Run, stamp: dict[str, Any]) -> dict[str, Any] | None:
    """Return ``explain.json`` if both files and all their pictures exist and match ``stamp``, else None."""
    if not (run.file(FOLDER, EXPLAINED).exists() and run.file(FOLDER, SPECIMENS).exists()):
        return None
    found: list[dict[str, Any]] = [run.read_json(FOLDER, name) for name in (EXPLAINED, SPECIMENS)]
    if any({key: one.get(key) for key in stamp} != stamp for one in found):
        return None
    there = {path.stem for path in run.path.glob(f"{FOLDER}/pictures/*.png")}
    return found[0] if there.issuperset(keys_in(found)) else None


def _explain(task: Task, reporter: Reporter) -> tuple[dict[str, Any], dict[str, Any]]:
    """For each fold: load its detectors, explain its images, check the maps, attack the specimens."""
    clean, plan = task.clean, task.plan
    chosen = subjects.choose(clean, plan.images)
    measured = subjects.some(np.arange(len(clean.ids)), plan.measured, clean.labels)
    names = plan.models or clean.names
    grid = specimens.attacked_rows(clean, len(names), plan.specimens // 2)
    gathered: dict[str, Gathered] = {}
    entries: dict[Subject, dict[str, Any]] = {}
    fought: specimens.Entries = []
    folds = sorted({int(clean.fold[row]) for row in (*measured, *grid, *(s.row for s in chosen))})
    for fold in folds:
        team = load_team(task.run, clean.phase, fold, task.device)
        if not gathered:
            gathered = _mapped(team, names, task, reporter)
        own = [subject for subject in chosen if clean.fold[subject.row] == fold]
        count = len(own) + int((clean.fold[measured] == fold).sum())
        reporter.start(f"maps · {clean.phase}" + (f" · fold {fold}" if fold >= 0 else ""), count)
        entries |= zip(own, _show(task, team, own, gathered), strict=True)
        pixels, _, ids = task.load(measured[clean.fold[measured] == fold])
        measure(team, gathered, pixels, ids, cam=plan.cam, seed=plan.seed, fold=fold, batch=plan.batch)
        reporter.advance(len(own) + len(pixels))
        reporter.finish()
        fought += _attack(task, team, fold, grid[clean.fold[grid] == fold], names)
    detectors = [summary(name, clean.phase, found, plan.seed) for name, found in gathered.items()]
    explained = {"detectors": detectors, "images": [entries[subject] for subject in chosen]}
    return explained, {**_specimens(task), "attacked": fought}


def _mapped(team: dict[str, Deployed], names: Sequence[str], task: Task, reporter: Reporter) -> dict[str, Gathered]:
    """Find the detectors' CAM layers; one without is skipped with a warning, or raises if it was requested by name."""
    found = {}
    for name in names:
        try:
            found[name] = Gathered(layers_of(bare(team[name]), task.images.size))
        except ModelError as error:
            if name in task.plan.models:
                raise
            reporter.warn(f"{name} is not explained: {error}")
    if not found:
        raise ModelError(f"no detector of run '{task.run.name}' has a feature map that a CAM could be read from")
    return found


def _show(
    task: Task, team: dict[str, Deployed], chosen: Sequence[Subject], gathered: dict[str, Gathered]
) -> list[dict[str, Any]]:
    """Explain images by every detector; returns entries of ``images`` in ``explain.json``."""
    if not chosen:
        return []
    plan, clean = task.plan, task.clean
    rows = np.array([subject.row for subject in chosen], dtype=np.intp)
    states = np.array([subject.state for subject in chosen])
    pixels, y, ids = task.load(rows)
    attacked, corrupted = np.flatnonzero(states == "attacked"), np.flatnonzero(states == "corrupted")
    if len(attacked):
        x = as_input(pixels[attacked])
        pixels[attacked] = as_pixels(fgsm(team["ensemble"], x, y[attacked], plan.eps))
    if len(corrupted):
        x = pixels[corrupted]
        pixels[corrupted] = corrupt(x, plan.corruption, plan.severity, ids=ids[corrupted], seed=plan.seed)
    conditions = {"attacked": Condition("fgsm", plan.eps).name, "corrupted": f"{plan.corruption}-{plan.severity}"}
    entries: list[dict[str, Any]] = [
        {
            "image_id": str(clean.ids[subject.row]),
            "label": int(clean.labels[subject.row]),
            "state": subject.state,
            "condition": conditions.get(subject.state, "clean"),
            "picture": key,
            "maps": [],
        }
        for subject, key in zip(chosen, task.keep(pixels), strict=True)
    ]
    for begin in range(0, len(pixels), plan.batch):
        some, into = pixels[begin : begin + plan.batch], entries[begin : begin + plan.batch]
        for name, look in subjects.looks(team, gathered, as_input(some), plan.cam).items():
            gathered[name].count(look.maps)
            for entry, shown in zip(into, _laid_over(task, name, look, some), strict=True):
                entry["maps"].append(shown)
    return entries


def _laid_over(task: Task, name: str, look: Look, pixels: Tensor) -> list[dict[str, Any]]:
    """Return one detector's entries of ``maps``, for images uint8 ``[N, 3, H, W]``."""
    mute = blank(look.maps)
    laid = [overlay(image, cam) for image, cam in zip(pixels.cpu().numpy(), look.maps, strict=True)]
    return [
        {
            "model": name,
            "phase": task.clean.phase,
            "p_fake": float(look.p_fake[k]),
            "target": "fake" if look.verdict[k] else "real",
            "blank": bool(mute[k]),
            "picture": keep_picture(task.pictures, laid[k]),
        }
        for k in range(len(laid))
    ]


def _attack(task: Task, team: dict[str, Deployed], fold: int, rows: Index, names: Sequence[str]) -> specimens.Entries:
    """Attack the specimen images of one fold: the ensemble in the explained phase, the detectors after phase 2."""
    if not len(rows):
        return []
    pixels, y, _ = task.load(rows)
    image_ids = [str(name) for name in task.clean.ids[rows]]
    phase = task.clean.phase
    final = team if phase == "final" else load_team(task.run, "final", fold, task.device)
    alone = {name: final[name] for name in names if name != "ensemble"}
    whole = {name: team[name] for name in names if name == "ensemble"}
    return [
        *specimens.attacked(alone, "final", image_ids, pixels, y, task.keep),
        *specimens.attacked(whole, phase, image_ids, pixels, y, task.keep),
    ]


def _specimens(task: Task) -> dict[str, specimens.Entries]:
    """Return the entries of ``specimens.json`` that need no detector."""
    rows = specimens.telling(task.judged, task.plan.specimens)
    loaded = {kind: task.load(own) for kind, own in rows.items()}
    out = {kind: specimens.described(task.judged, own, task.keep(loaded[kind][0])) for kind, own in rows.items()}
    pixels, _, ids = loaded["examples"]
    if not len(pixels):
        return {**out, "corruptions": []}
    # Use the image of highest contrast: on a flat image many corruptions are invisible.
    k = int(pixels.float().flatten(1).std(1).argmax())
    one = (str(task.clean.ids[rows["examples"][k]]), pixels[k : k + 1], ids[k : k + 1])
    names = specimens.corruptions_of(task.run)
    return {**out, "corruptions": specimens.corrupted(names, *one, task.plan.seed, task.keep)}
