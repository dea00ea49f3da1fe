"""Checks before a run begins or resumes: what they refuse fails before anything is written, so nothing is lost."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from robustbench_df.config import PRESETS, RunConfig, load_config
from robustbench_df.data.imageset import ImageSet
from robustbench_df.devices import choose_device
from robustbench_df.errors import ModelError, RunError, UsageError, first_line
from robustbench_df.memory import is_out_of_memory
from robustbench_df.models.detector import Detector
from robustbench_df.models.pretrained import pretrained_state
from robustbench_df.models.zoo import LARGE_SIDE, architecture, build_detector, unused_options
from robustbench_df.progress import Reporter
from robustbench_df.run import Run
from robustbench_df.settings import merge, override_key, validated


def refuse_unfit_refits(config: RunConfig) -> None:
    """Refuse a schedule that depends on val if detectors are to be refitted, since a refit has no val."""
    for name in config.models if config.refit else ():
        recipe = config.for_model(name)
        for phase, settings in (("phase1", recipe.phase1), ("phase2", recipe.phase2)):
            if settings.schedule == "plateau":
                raise UsageError(
                    f"{name}: {phase}.schedule=plateau follows val, which a refit has none of; "
                    "choose onecycle, cosine or constant, or leave --refit away"
                )


def decide_pretrained(config: RunConfig) -> RunConfig:
    """Replace every ``pretrained=auto`` by ``required`` if the weights are available now, else ``never`` (one warning).

    Otherwise each build would decide again, and with an unreliable connection, folds of one detector could start from
    different weights.
    """

    def possible(name: str) -> str:
        model = config.for_model(name).model
        timm_name = None if model.weights else architecture(model.name).timm_name
        return "never" if pretrained_state(timm_name, "auto", name) is None else "required"

    return _decided(config, possible)


def _decided(config: RunConfig, answer: Callable[[str], str]) -> RunConfig:
    """Replace each model's ``pretrained=auto`` by its answer: in the common table, or per model if answers differ."""
    answers = {name: answer(name) for name in config.models if config.for_model(name).model.pretrained == "auto"}
    common: str = config.model.pretrained
    if common == "auto" and answers:
        common = "never" if len(set(answers.values())) > 1 else next(iter(answers.values()))
    decided = config.model_copy(update={"model": config.model.model_copy(update={"pretrained": common})})
    differing = {
        name: {"model": {"pretrained": how}}
        for name, how in answers.items()
        if decided.for_model(name).model.pretrained != how
    }
    return decided.model_copy(update={"per_model": merge(copy.deepcopy(config.per_model), differing)})


def require_buildable(config: RunConfig, images: ImageSet, reporter: Reporter) -> None:
    """Build every detector once and run it on random images, so that misfits fail before a run exists.

    Reported are settings that an architecture does not use, and timm's weights at a rate that the preset has for none.

    Raises:
        ModelError: weights that do not fit, or a network that cannot take images of that size.
    """
    with torch.random.fork_rng(devices=[]):  # leave the caller's random state unchanged
        for name in config.models:
            model = config.for_model(name).model
            _require_taken(name, build_detector(model, images.size)[0], images.size, alone=len(config.models) == 1)
            for option in unused_options(model):
                reporter.warn(f"{name}: model.{option}={getattr(model, option)} does nothing for {model.name}")
    if ill_tuned := [name for name in config.models if _at_a_rate_for_none(name, config)]:
        reporter.warn(
            f"{', '.join(ill_tuned)} from pretrained weights: the rates of preset {config.preset} are for training "
            "from scratch; those of --preset pretrained were measured with such weights"
        )


def _at_a_rate_for_none(name: str, config: RunConfig) -> bool:
    """Whether timm's weights would be tuned at the rate of a preset that trains this model from scratch."""
    if config.preset not in PRESETS:
        return False
    asked, usual = config.for_model(name), load_config(config.preset).for_model(name)
    return (asked.model.pretrained, usual.model.pretrained, asked.phase1.lr) == ("required", "never", usual.phase1.lr)


def _require_taken(name: str, detector: Detector, size: tuple[int, int], *, alone: bool) -> None:
    """Refuse a detector whose network can be built but fails on images of ``size`` (height, width in pixels)."""
    try:
        with torch.no_grad():
            detector.eval()(torch.rand(2, 3, *size))
    except (RuntimeError, ValueError, AssertionError) as error:  # timm uses assertions
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            return  # the probe finds out how many images fit, on the training device
        height, width = (detector.input_size,) * 2 if detector.input_size else size
        side = getattr(detector.net, "pretrained_cfg", {}).get("input_size", (3, LARGE_SIDE, LARGE_SIDE))[-1]
        key = override_key(*(() if alone else ("per_model", name)), "model", "input_size")
        raise ModelError(
            f"{name} cannot take images of {width}×{height} px ({first_line(error)}); "
            f"use --set {key}={side}, or larger images (--size)"
        ) from error


def run_to_resume(config: RunConfig, path: Path | None) -> Run:
    """Return the run at ``path``.

    Raises:
        UsageError: ``path`` is None, or the run was begun with other settings than ``config``.
        RunError: the device that the run was begun on is not present.
    """
    if path is None:
        raise UsageError("resume=True goes on with the run at path; give its folder")
    run = Run(path)
    _require_same(run, config)
    _require_devices(run)
    return run


def _require_devices(run: Run) -> None:
    """Refuse to resume a run unless the devices that its detectors were begun on are present."""
    known = run.read_json("speed.json").values() if run.file("speed.json").exists() else ()
    for device in {settings["device"] for settings in known} or {run.config.speed.device}:
        try:
            choose_device(device)
        except UsageError as error:
            raise RunError(
                f"run '{run.name}' was begun on {device}, which is not there now; resume it where it is, "
                "or start a new run"
            ) from error


def resume_config(run: Run, asked: dict[str, Any]) -> RunConfig:
    """Return the settings of a run to be resumed; ``asked`` are nested values from the command line.

    Raises:
        UsageError: the command line asks for a setting that differs from the run's.
    """
    config = run.config
    _require_same(run, validated(RunConfig, merge(config.model_dump(), asked)))
    return config


def _require_same(run: Run, asked: RunConfig) -> None:
    """Refuse settings that differ from the run's; ``pretrained=auto`` means what was resolved at the run's start."""
    begun = run.config
    asked = _decided(asked, lambda name: begun.for_model(name).model.pretrained)
    _require_same_values(run, begun.model_dump(), asked.model_dump(), "")
    if begun != asked:  # settings that only the run has, for one of its models
        raise UsageError(f"run '{run.name}' was begun with settings per model that are missing now; pass run.config")


def _require_same_values(run: Run, begun: dict[str, Any], asked: dict[str, Any], prefix: str) -> None:
    for key, value in asked.items():
        if isinstance(value, dict):
            _require_same_values(run, begun.get(key, {}), value, f"{prefix}{key}.")
        elif key not in begun or begun[key] != value:
            raise UsageError(
                f"run '{run.name}' was begun with {prefix}{key}={begun.get(key, 'unset')}, not {value}; "
                "resume it without options, or start a new run"
            )
