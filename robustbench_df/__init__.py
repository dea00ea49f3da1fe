"""robustbench_df: how far can a real/fake image detector be trusted, and which ensemble should ship?

The public API is loaded on first use, so that importing the package is fast::

    import robustbench_df as rdf

    images = rdf.load_images("synergy25.zip")
    run = rdf.open_run("runs/latest")
    detector = run.detector("resnet_se", phase="final")
"""

from __future__ import annotations

import importlib
from typing import Any

from robustbench_df._version import __version__

_EXPORTS = {
    "AttackPlan": "attack_plan",
    "AttackSpec": "attacks.spec",
    "Attacked": "attacks.runner",
    "AugmentConfig": "config",
    "BenchPlan": "benching",
    "Cell": "experiment_folder",
    "CORRUPTIONS": "corruptions.catalogue",
    "CorruptionPlan": "corruption_plan",
    "Decision": "metrics.calibration",
    "Detector": "models.detector",
    "Ensemble": "models.detector",
    "ExportPlan": "exporting",
    "FidelityPlan": "deploy.fidelity",
    "ImageSet": "data.imageset",
    "Interval": "metrics.intervals",
    "Job": "train.job",
    "Lab": "lab",
    "MODELS": "models.architectures",
    "ModelConfig": "config",
    "Recipe": "config",
    "Run": "run",
    "RunConfig": "config",
    "Setting": "train.speed",
    "Split": "data.split",
    "SplitConfig": "config",
    "Threat": "attacks.threat",
    "auc_interval": "metrics.intervals",
    "build_detector": "models.zoo",
    "build_report": "report.build",
    "image_set_from_arrays": "data.imageset",
    "judge": "summary",
    "load_checkpoint": "train.state",
    "load_config": "config",
    "load_images": "data.sources",
    "make_split": "data.split",
    "choose_device": "devices",
    "corrupt": "corruptions.suite",
    "corrupt_run": "corruption_grid",
    "library_corrupt": "corruptions.library",
    "experiment_main": "cli.experiment",
    "fgsm": "attacks.fgsm",
    "fit": "train.fit",
    "fit_weights": "metrics.weights",
    "measure": "summary",
    "open_run": "run",
    "predict": "inference",
    "predict_logits": "evaluate",
    "assemble": "run",
    "audit_images": "audit.front",
    "attack_run": "robustness",
    "bench_run": "benching",
    "export_run": "exporting",
    "run_attack": "attacks.runner",
    "run_suite": "attacks.suite",
    "run_sweep": "attacks.runner",
    "transfer_matrix": "attacks.transfer",
    "score_file": "scoring",
    "setting_for": "train.speed",
    "train_all": "pipeline",
    "trained": "train.shelf",
    "training_rate": "train.speed",
    "wilson": "metrics.intervals",
    "working_memory": "deploy.timing",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
