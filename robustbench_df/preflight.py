"""What is refused before a run begins or goes on: nothing has been written then, and nothing is lost."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from robustbench_df.config import RunConfig
from robustbench_df.data.imageset import ImageSet
from robustbench_df.errors import ModelError, RunError, UsageError, first_line
from robustbench_df.memory import is_out_of_memory
from robustbench_df.models.detector import Detector
from robustbench_df.models.pretrained import pretrained_state
from robustbench_df.models.zoo import LARGE_SIDE, architecture, build_detector, unused_options
from robustbench_df.run import Run
from robustbench_df.settings import merge, override_key, validated
from robustbench_df.train.report import Reporter
from robustbench_df.train.speed import choose_device


def refuse_unfit_refits(config: RunConfig) -> None:
    """Refuse a schedule that follows val for detectors that are to be trained once more without one."""
    for name in config.models if config.refit else ():
        recipe = config.for_model(name)
        for phase, settings in (("phase1", recipe.phase1), ("phase2", recipe.phase2)):
            if settings.schedule == "plateau":
                raise UsageError(
                    f"{name}: {phase}.schedule=plateau follows val, which a refit has none of; "
                    "choose onecycle, cosine or constant, or leave --refit away"
                )


def decide_pretrained(config: RunConfig) -> RunConfig:
    """Replace every ``pretrained=auto`` by what can be had now: ``required``, or ``never`` after one warning.

    Else each build would decide anew, and a network that comes and goes would give a detector folds of two kinds.
    """

    def possible(name: str) -> str:
        model = config.for_model(name).model
        timm_name = None if model.weights else architecture(model.name).timm_name
        return "never" if pretrained_state(timm_name, "auto", name) is None else "required"

    return _decided(config, possible)


def _decided(config: RunConfig, answer: Callable[[str], str]) -> RunConfig:
    """Replace ``pretrained=auto`` of each model by its answer: in the common table, and per model where they differ."""
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
    """Build every detector once and show it images: what does not fit leaves no run behind, idle settings are named.

    Raises:
        ModelError: weights that do not fit, or a network that cannot take images of that size.
    """
    with torch.random.fork_rng(devices=[]):  # a caller's own random numbers stay what they were
        for name in config.models:
            model = config.for_model(name).model
            _require_taken(name, build_detector(model, images.size)[0], images.size, alone=len(config.models) == 1)
            for option in unused_options(model):
                reporter.warn(f"{name}: model.{option}={getattr(model, option)} does nothing for {model.name}")


def _require_taken(name: str, detector: Detector, size: tuple[int, int], *, alone: bool) -> None:
    """Refuse a detector whose network was built well and fails at images of ``size`` (height, width in pixels)."""
    try:
        with torch.no_grad():
            detector.eval()(torch.rand(2, 3, *size))
    except (RuntimeError, ValueError, AssertionError) as error:  # timm asserts
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            return  # how many images fit is for the probe to find out, on the device that trains
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
        UsageError: there is no path, or the run was begun with other settings than ``config``.
        RunError: the device it was begun on is not there.
    """
    if path is None:
        raise UsageError("resume=True goes on with the run at path; give its folder")
    run = Run(path)
    _require_same(run, config)
    _require_devices(run)
    return run


def _require_devices(run: Run) -> None:
    """Refuse to go on with a run elsewhere than on the devices that its detectors were begun on."""
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
        UsageError: the command line asks for something the run was not begun with.
    """
    config = run.config
    _require_same(run, validated(RunConfig, merge(config.model_dump(), asked)))
    return config


def _require_same(run: Run, asked: RunConfig) -> None:
    """Refuse other settings than the run's; ``pretrained=auto`` asks for what was decided when it began."""
    begun = run.config
    asked = _decided(asked, lambda name: begun.for_model(name).model.pretrained)
    _require_same_values(run, begun.model_dump(), asked.model_dump(), "")
    if begun != asked:  # what only the run has set, for one of its models
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
