"""`train_all`: from images to a leak-proof split, detectors trained in two phases, a weighted ensemble and its results.

Every step writes its result to the run folder and is skipped if the result exists, so an interrupted run can resume.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from robustbench_df.audit.copies import Copies, find_copies
from robustbench_df.audit.duplicates import twins_of_test
from robustbench_df.audit.finding import Audit
from robustbench_df.audit.gate import FILE as AUDIT
from robustbench_df.audit.gate import audit_before_training, record_audit
from robustbench_df.audit.groups import IN_NAMES
from robustbench_df.config import Recipe, RunConfig
from robustbench_df.data.cache import default_cache_dir
from robustbench_df.data.imageset import ImageSet
from robustbench_df.data.info import findings_by_kind
from robustbench_df.data.sources import load_configured
from robustbench_df.data.split import Split, make_folds, make_refit, make_split, split_rows
from robustbench_df.devices import choose_device, device_name
from robustbench_df.ensembling import TWINS, fit_ensembles, write_results
from robustbench_df.errors import Interrupted, RunError
from robustbench_df.held_out import conditions, score_ensemble, score_members
from robustbench_df.models.architectures import SMALL_IMAGE
from robustbench_df.models.detector import Detector
from robustbench_df.models.pretrained import read_weights
from robustbench_df.models.zoo import architecture, build_detector, pixels_seen
from robustbench_df.preflight import decide_pretrained, refuse_unfit_refits, require_buildable, run_to_resume
from robustbench_df.progress import Reporter
from robustbench_df.run import Run
from robustbench_df.rundir import (
    Durations,
    create_run,
    provenance,
    refuse_existing,
    write_atomic,
    write_json,
    write_text,
)
from robustbench_df.train.estimate import seconds_left
from robustbench_df.train.job import PHASES, Job
from robustbench_df.train.schedule import planned_epochs
from robustbench_df.train.side_by_side import Task, cores, fit_all, how_many
from robustbench_df.train.speed import Setting, setting_for
from robustbench_df.wording import counted, duration

_LONG = 2 * 3600
"""If training should take longer than this, in seconds, a hint on how to shorten it is shown."""


def train_all(
    config: RunConfig,
    path: Path | str | None = None,
    *,
    resume: bool = False,
    jobs: int | None = None,
    reporter: Reporter | None = None,
) -> Run:
    """Audit the images, train every detector of ``config``, weight and evaluate them, and return the finished run.

    Args:
        config: all settings; on ``resume`` they must equal the run's. The run stores ``pretrained=auto`` as it was
            resolved at the start.
        path: the run folder; None creates one under ``runs/``.
        resume: continue the run at ``path``.
        jobs: number of parallel trainings on a CPU, each with a share of the cores; None chooses it from the number of
            trainings, the cores and the memory (`robustbench_df.train.side_by_side.how_many`).
        reporter: receives progress.

    Raises:
        DataError: the images or the split are unusable, or the audit has a failing finding that the run cannot fix and
            ``config.allow_findings`` is not set.
        ModelError: an unknown model, weights that do not fit, or a network that cannot take images of that size.
        TrainError: the loss is not finite, or even one image does not fit in memory. Finished steps stay on disk.
        RunError: the folder already holds a run, is in use or damaged, or the images, split or device have changed
            since the run began.
        UsageError: an unknown device, settings that do not fit together, or settings that differ from a resumed run's.
        Interrupted: on Ctrl-C; the message says how to resume.
    """
    reporter = reporter or Reporter()
    for name in {*config.models, *config.per_model}:
        # A misspelt name of a model or weight file fails before any image is read and anything is written.
        model = config.for_model(name).model
        architecture(model.name)
        if model.weights is not None and not resume:
            read_weights(Path(model.weights))
    path = Path(path) if path is not None else None
    run = run_to_resume(config, path) if resume else None
    try:
        if run is None:
            choose_device(config.speed.device)
            refuse_unfit_refits(config)
            refuse_existing(path)
        images = load_configured(config.data, config.seed)
        if run is None:
            config = decide_pretrained(config)
            require_buildable(config, images, reporter)
        else:
            config = run.config
        reporter.say(f"audit: copies among {len(images):,} images")
        copies = find_copies(images)
        splits = _splits(images, config, copies)
        known = run is not None and run.file(AUDIT).exists()
        audited = None if known else audit_before_training(images, copies, config, reporter.say)
        # Nothing is written until the data has proved usable, so a mistyped path leaves no run folder behind.
        run = run or Run(create_run(config, path).path)
        with run.lock():
            _begin(run, images, splits, config, reporter)
            _keep_audit(run, images, copies, audited, reporter)
            _train_all(run, images, splits, config, jobs, reporter)
    except KeyboardInterrupt as error:
        how = f"finished work is kept, go on with: {run.resume_command}" if run else "nothing had been written"
        raise Interrupted(f"stopped; {how}") from error
    return run


def _train_all(
    run: Run, images: ImageSet, splits: list[Split], config: RunConfig, jobs: int | None, reporter: Reporter
) -> None:
    at_once = jobs or _how_many(run, images, len(splits), config)
    settings = _settings(run, images, config, at_once, reporter)
    clock = Durations(run)
    tasks = [task for name in config.models for task in _tasks(run, name, splits, settings[name], config)]
    refits = {n: _refit_job(run, n, settings[n], splits, config) for n in config.models} if config.refit else {}
    again = [(job, len(splits)) for job in refits.values()]
    everything = [*splits, make_refit(splits[0])] if refits else splits
    seconds = seconds_left([*tasks, *again], everything, at_once)
    _tell_how_long(seconds, images.size, reporter, begun=run.file("models").exists())
    fit_all(tasks, splits, at_once, reporter, lambda job, seconds: clock.add(f"train {job.name}", seconds))
    with clock.stage("evaluate"):
        score_members(run, splits, config, reporter)
        fit_ensembles(run, images, PHASES)
        score_ensemble(run, splits, config, reporter)
        write_results(run, images, PHASES, tuple(c.name for c in conditions(config)[1:]))
    if refits:
        reporter.say(
            "refit: there is no val to stop early or to choose by, so all epochs are trained and the last is kept"
        )
        whose = {job.name: f"refit {name}" for name, job in refits.items()}
        fit_all(again, everything, at_once, reporter, lambda job, seconds: clock.add(whose[job.name], seconds))
    write_text(run.file("DONE"), "")


def _tell_how_long(seconds: float | None, size: tuple[int, int], reporter: Reporter, *, begun: bool) -> None:
    """Report the estimated training time, if known, and how to shorten a long training that has not ``begun``."""
    if not seconds:
        return
    reporter.say(f"training: about {duration(seconds)} by the speeds of the probe")
    if seconds > _LONG and not begun:
        smaller = f"--size {SMALL_IMAGE}, " if max(size) > SMALL_IMAGE else ""
        reporter.warn(
            f"to make it shorter: {smaller}fewer --models or --folds, or a cap on the images that each detector sees "
            "in all (--set phase1.image_budget=20000)"
        )


def _splits(images: ImageSet, config: RunConfig, copies: Copies) -> list[Split]:
    """Make the split or the folds; the result depends only on the images and the settings."""
    settings = config.split if config.split.seed is not None else config.split.model_copy(update={"seed": config.seed})
    folds = settings.fold_count(len(images.labelled()))
    return make_folds(images, settings, folds, copies) if folds > 1 else [make_split(images, settings, copies)]


def _begin(run: Run, images: ImageSet, splits: list[Split], config: RunConfig, reporter: Reporter) -> None:
    """Record the run's images and split; on resume, refuse images or a split that differ from those at the start."""
    reporter.say(f"run folder: {run.path}")
    table = pd.DataFrame(split_rows(splits), columns=["image_id", "part", "fold"])
    if run.file("provenance.json").exists():
        if images.fingerprint != run.fingerprint:
            raise RunError(
                f"'{config.data.source}' has changed since run '{run.name}' began (fingerprint {images.fingerprint}, "
                f"then {run.fingerprint}); restore it or start a new run"
            )
        if run.file("split.parquet").exists() and not table.equals(run.split):
            raise RunError(
                f"run '{run.name}' was begun with another split (its groups, given parts or version changed); "
                "restore them or start a new run"
            )
    else:
        record = provenance(config.seed, images.fingerprint, torch.get_num_threads(), device_name(config.speed.device))
        sides = images.sides[np.concatenate([part for split in splits for part in (split.train, split.val)])]
        about = {"images": len(images), "sides": [int(sides.min()), int(sides.max())]}
        write_json(run.file("provenance.json"), {**record, **about, "layout": images.layout})
    write_atomic(run.file("split.parquet"), lambda temporary: table.to_parquet(temporary, index=False))
    # Everything that a report needs to know about the images, so that it never has to read them.
    told = {"image_id": images.ids, "group": images.groups, "source": images.sources}
    known = pd.DataFrame({name: values.astype(str) for name, values in told.items()}).assign(label=images.labels)
    write_atomic(run.file("images.parquet"), lambda temporary: known.to_parquet(temporary, index=False))
    findings = (*images.findings, *splits[0].findings)
    write_json(run.file("findings.json"), {"findings": [asdict(finding) for finding in findings]})
    for line in findings_by_kind(findings):
        reporter.warn(line)
    if findings:
        reporter.warn(f"{counted(len(findings), 'finding')} in the data, kept in {run.file('findings.json')}")
    if len(splits) > 1:
        reporter.say(f"{len(splits)} folds: each detector is trained {len(splits)} times and judged out of fold")


def _keep_audit(run: Run, images: ImageSet, copies: Copies, audited: Audit | None, reporter: Reporter) -> None:
    """Record the audit's findings and the given test images that have copies, so that every later result can say so."""
    twins = [str(name) for name in images.ids[twins_of_test(images, copies)]]
    if twins:
        write_json(run.file(TWINS), {"test": twins})
        reporter.warn(
            f"{len(twins)} images of the given test part have copies outside it: scored with and without them"
        )
    if audited is not None:
        record_audit(run, audited)
        reporter.say(f"audit: {audited.said()}, kept in {run.file(AUDIT)}")
        grouped = audited[IN_NAMES]
        # This is the only warning of the audit that a better split can fix.
        if grouped.severity == "warn" and grouped.figures["kind"] != "class":
            reporter.warn(f"{grouped.id}: {grouped.detail}; {grouped.remedy}")
        for name in audited.allowed:
            reporter.warn(f"training in spite of {name}: {audited[name].detail}")


def _how_many(run: Run, images: ImageSet, splits: int, config: RunConfig) -> int:
    """Return how many detectors to train at once; on resume, the thread counts are those recorded at the start."""
    known = run.read_json("speed.json") if run.file("speed.json").exists() else {}
    threads = max((setting["threads"] for setting in known.values()), default=config.speed.threads or 1)
    recipes = [config.for_model(name) for name in config.models]
    pixels = max(
        max(recipe.phase1.batch_size, recipe.phase2.batch_size) * pixels_seen(recipe.model, images.size)
        for recipe in recipes
    )
    return how_many(len(recipes) * splits, choose_device(config.speed.device), pixels, threads)


def _settings(run: Run, images: ImageSet, config: RunConfig, at_once: int, reporter: Reporter) -> dict[str, Setting]:
    """Probe each model's fastest setting once per run; a resumed run uses the recorded settings."""
    speed = config.speed
    if at_once > 1 and speed.threads is None:
        speed = speed.model_copy(update={"threads": max(1, cores() // at_once)})
    path = run.file("speed.json")
    known: dict[str, Any] = run.read_json("speed.json") if path.exists() else {}
    if set(config.models) - set(known):
        reporter.say("probe: the fastest precision and memory format of each detector")
    for name in config.models:
        if name not in known:
            recipe = config.for_model(name)

            def build(recipe: Any = recipe) -> Detector:
                return build_detector(recipe.model, images.size)[0]

            batch = recipe.phase1.micro_batch or recipe.phase1.batch_size
            identity = recipe.model.model_dump(mode="json")
            chosen = setting_for(build, images.size, batch, speed, identity, default_cache_dir() / "speed")
            known[name] = asdict(chosen)
            write_json(path, known)
            reporter.say(
                f"{name}: {chosen.precision}, {chosen.memory_format}, {chosen.threads} threads, {chosen.device}"
            )
    settings = {name: Setting(**known[name]) for name in config.models}
    if at_once > 1:
        threads = max(setting.threads for setting in settings.values())
        reporter.say(f"{at_once} detectors are trained at a time, with {threads} of {cores()} threads each")
    return settings


def _tasks(run: Run, name: str, splits: list[Split], setting: Setting, config: RunConfig) -> Iterator[Task]:
    recipe = _share_budget(config.for_model(name), len(splits), setting)
    for k in range(len(splits)):
        fold = k if len(splits) > 1 else None
        yield (
            Job(
                name,
                recipe,
                run.model_dir(name, fold),
                setting,
                seed=config.seed,
                fold=-1 if fold is None else fold,
                save_every=config.speed.save_every,
            ),
            k,
        )


def _share_budget(recipe: Recipe, folds: int, setting: Setting) -> Recipe:
    """Divide the phases' image budgets among the folds; on an accelerator, remove the budgets."""
    on_cpu = setting.device == "cpu"
    shared = {
        phase: config.model_copy(update={"image_budget": -(-config.image_budget // folds) if on_cpu else 0})
        for phase, config in (("phase1", recipe.phase1), ("phase2", recipe.phase2))
    }
    return recipe.model_copy(update=shared)


def _refit_job(run: Run, name: str, setting: Setting, splits: list[Split], config: RunConfig) -> Job:
    """Return the job of a refit, which has no val: it trains all epochs that a fold plans and keeps the last one."""
    recipe = _share_budget(config.for_model(name), len(splits), setting)
    images = len(splits[0].train)
    fixed = {
        phase: settings.model_copy(
            update={
                "epochs": planned_epochs(settings, images + settings.all_copies),
                # A budget below one epoch still shortens that epoch; a larger one is already applied to ``epochs``.
                "image_budget": min(settings.image_budget, images) % images,
                "select": "last",
                "patience": 0,
            }
        )
        for phase, settings in (("phase1", recipe.phase1), ("phase2", recipe.phase2))
    }
    folder = run.model_dir(name) / "refit"
    recipe = recipe.model_copy(update=fixed)
    return Job(f"{name} refit", recipe, folder, setting, seed=config.seed, save_every=config.speed.save_every)
