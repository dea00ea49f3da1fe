"""`rdf export`: a run's detector or shipped ensemble as a file that works without this package, checked against it."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from robustbench_df.data.thinning import thin
from robustbench_df.deploy.fidelity import FidelityPlan, fidelity
from robustbench_df.deploy.graphs import FORMATS, open_graph, save_graph
from robustbench_df.deploy.int8 import calibration_images, quantise
from robustbench_df.deploy.runtime import INPUT, OUTPUT, OnnxDetector, runtime_version
from robustbench_df.errors import ModelError, UsageError, nearest
from robustbench_df.models.detector import Detector, frozen
from robustbench_df.progress import Reporter
from robustbench_df.robustness import tensors
from robustbench_df.run import Run
from robustbench_df.rundir import jsonable, provenance, write_atomic, write_json
from robustbench_df.settings import Settings

TOLERANCE = 1e-3
"""Largest allowed difference of a logit, relative to its magnitude if that is above 1. Another order of summation in
float32 causes differences of some 1e-5; a wrong operator causes far larger ones."""

CHECKED = 64
"""Number of the run's images on which a file is checked; the first is also checked alone, since the file must accept
any batch size."""


class ExportPlan(Settings):
    """Settings of `rdf export`."""

    model: str = "ensemble"
    """A detector of the run, or ``ensemble``: the shipped one."""
    phase: Literal["base", "final"] | None = None
    """None: as shipped."""
    form: Literal["onnx", "exported-program"] = "onnx"
    int8: bool = False
    refit: bool = False
    judged: FidelityPlan = FidelityPlan()
    """How int8 is compared with float32."""


@dataclass(frozen=True)
class Exported:
    """The exported file, the JSON sidecar next to it, and the content of the sidecar."""

    path: Path
    sidecar: Path
    facts: dict[str, Any]


def export_run(run: Run, plan: ExportPlan, to: Path | None = None, reporter: Reporter | None = None) -> Exported:
    """Write a detector as one file, with a JSON sidecar that says how its logits become a verdict.

    The file is opened again and run on images of the run; it is kept only if its logits equal the detector's up to
    `TOLERANCE`. An int8 file differs by design: it is made from a float32 file that has passed this check, and it is
    evaluated by its loss of accuracy on images that its detectors have not seen (`robustbench_df.deploy.fidelity`).

    Args:
        run: a finished run.
        plan: what to export.
        to: path of the file; None: a file in ``exports/`` of the run.
        reporter: receives progress.

    Raises:
        UsageError: an unknown model, int8 without ONNX, or an extra that is not installed.
        ModelError: the detector cannot be written in this format, or the file's logits differ. No file is kept.
    """
    reporter = reporter or Reporter()
    if plan.int8 and plan.form != "onnx":
        raise UsageError(f"int8 is made for ONNX Runtime; --int8 goes with --format onnx, not {plan.form}")
    detector, phase = detector_of(run, plan), plan.phase or run.shipped["phase"]
    path = to or default_path(run, plan)
    images = run.images()
    x, _, _ = tensors(images, thin(images.labelled(), CHECKED, images.labels), "cpu")
    with tempfile.TemporaryDirectory() as folder:
        ready = ready_file(run, plan.model_copy(update={"int8": False})) if plan.int8 else None
        made = ready or Path(folder) / f"made{FORMATS[plan.form]}"
        if ready is None:
            reporter.say(f"writing {plan.model}, {phase}, as {plan.form}")
            save_graph(detector, images.size, plan.form, made)
        facts = {**describe(run, plan.model, phase), "checked": check(detector, open_graph(made, plan.form), x)}
        if plan.int8:
            float32, made = made, Path(folder) / "int8.onnx"
            reporter.say("quantising it to int8")
            facts["int8"] = {"recipe": quantise(float32, made, calibration_images(run, images))}
            facts["int8"]["largest_difference"] = float(_gaps(detector, OnnxDetector(made), x)[0].max())
            facts["int8"] |= fidelity(run, plan.model, phase, images, plan.judged, reporter)
        facts = {"file": path.name, "bytes": made.stat().st_size, "sha256": _sha256(made), "refit": plan.refit, **facts}
        write_atomic(path, lambda temporary: shutil.copyfile(made, temporary))
    write_json(sidecar_of(path), facts)
    return Exported(path, sidecar_of(path), facts)


def default_path(run: Run, plan: ExportPlan) -> Path:
    """Return the default path of an exported file."""
    stem = f"{run.model_dir(plan.model).name}-{plan.phase or run.shipped['phase']}" + ("-int8" if plan.int8 else "")
    return run.file("exports", stem + FORMATS[plan.form])


def ready_file(run: Run, plan: ExportPlan) -> Path | None:
    """Return the file that `export_run` wrote for a plan; None if there is none, or if it does not match the run."""
    path = default_path(run, plan)
    try:
        facts = json.loads(sidecar_of(path).read_text(encoding="utf-8"))
        now = describe(run, plan.model, plan.phase or run.shipped["phase"])
        same = all(facts.get(key) == value for key, value in now.items()) and facts["refit"] == plan.refit
        return path if same and facts["sha256"] == _sha256(path) else None
    except (OSError, ValueError, KeyError):
        return None


def sidecar_of(path: Path) -> Path:
    """Return the path of the JSON sidecar of an exported file."""
    return path.with_name(path.name + ".json")


def detector_of(run: Run, plan: ExportPlan) -> Detector:
    """Return the detector, or the shipped ensemble, that a plan names.

    Raises:
        UsageError: the run has no such model.
    """
    if plan.model == "ensemble":
        return run.ensemble(phase=plan.phase, refit=plan.refit)
    if plan.model not in run.models:
        choices = (*run.models, "ensemble")
        raise UsageError(
            f"run '{run.name}' has no model '{plan.model}'{nearest(plan.model, choices)}; it has {', '.join(choices)}"
        )
    return run.detector(plan.model, plan.phase, refit=plan.refit)


def describe(run: Run, model: str, phase: str) -> dict[str, Any]:
    """Describe how to use a file: its input, its output, and how logits become a verdict."""
    height, width = run.image_size
    made_with = provenance(run.config.seed, run.fingerprint, torch.get_num_threads(), "cpu")["versions"]
    whole = {"members": list(run.models), "weights": jsonable(run.weights(phase=phase))} if model == "ensemble" else {}
    return {
        "run": run.name,
        "model": model,
        "phase": phase,
        **whole,
        "input": {
            "name": INPUT,
            "shape": ["batch", 3, height, width],
            "dtype": "float32",
            "range": [0, 1],
            "meaning": "RGB pixels divided by 255; resizing and normalisation are inside",
        },
        "output": {"name": OUTPUT, "shape": ["batch", 2], "classes": ["real", "fake"]},
        "decision": {
            **run.decision(model, phase).to_dict(),
            "probability": "P(fake) = sigmoid((logits[1] - logits[0]) / temperature)",
            "verdict": "fake (1) where P(fake) >= threshold, else real (0)",
        },
        "data_fingerprint": run.fingerprint,
        "versions": {**made_with, "onnxruntime": runtime_version()},
    }


def check(detector: Detector, opened: Callable[[Tensor], Tensor], x: Tensor) -> dict[str, Any]:
    """Run both on ``x`` ``[N, 3, H, W]`` and on its first image alone; returns the largest difference of the logits.

    Raises:
        ModelError: the difference is above `TOLERANCE`, or a logit is NaN.
    """
    difference, size = _gaps(detector, opened, x)
    worst = float((difference / size.clamp(min=1)).max())
    if not worst <= TOLERANCE:
        raise ModelError(
            f"the file's logits differ from the detector's by {float(difference.max()):.2g}, {worst:.2g} of their size "
            f"({TOLERANCE:g} is allowed); nothing is kept: use the other --format"
        )
    return {"images": len(x), "largest_difference": float(difference.max()), "relative": worst, "allowed": TOLERANCE}


def _gaps(detector: Detector, opened: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Return absolute differences of the logits, and magnitudes of the detector's logits, ``[N + 1, 2]`` each."""
    with frozen(detector), torch.no_grad():
        asked = torch.cat([detector(x), detector(x[:1])])
        answered = torch.cat([opened(x), opened(x[:1])])
    return (answered - asked).abs(), asked.abs()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
