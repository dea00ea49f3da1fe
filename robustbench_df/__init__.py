"""robustbench_df: how far can a real/fake image detector be trusted, and which ensemble should ship?

The public API, loaded on first use so that importing the package costs nothing::

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
    "AttackPlan": "robustness",
    "AttackSpec": "attacks.spec",
    "Attacked": "attacks.runner",
    "AugmentConfig": "config",
    "CorruptionPlan": "corruption_grid",
    "Decision": "metrics.calibration",
    "Detector": "models.detector",
    "Ensemble": "models.detector",
    "ImageSet": "data.imageset",
    "Job": "train.fit",
    "ModelConfig": "config",
    "Recipe": "config",
    "Run": "run",
    "RunConfig": "config",
    "Setting": "train.speed",
    "Split": "data.split",
    "SplitConfig": "config",
    "Threat": "attacks.threat",
    "build_detector": "models.zoo",
    "image_set_from_arrays": "data.imageset",
    "judge": "summary",
    "load_checkpoint": "train.state",
    "load_config": "config",
    "load_images": "data.sources",
    "make_split": "data.split",
    "corrupt": "corruptions.suite",
    "corrupt_run": "corruption_grid",
    "fgsm": "attacks.fgsm",
    "fit": "train.fit",
    "measure": "summary",
    "open_run": "run",
    "predict": "inference",
    "predict_logits": "evaluate",
    "attack_run": "robustness",
    "run_attack": "attacks.runner",
    "run_suite": "attacks.suite",
    "run_sweep": "attacks.runner",
    "transfer_matrix": "attacks.transfer",
    "score_file": "scoring",
    "setting_for": "train.speed",
    "train_all": "pipeline",
    "training_rate": "train.speed",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
