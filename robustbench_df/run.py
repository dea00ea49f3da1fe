"""`Run`: read access to a finished or unfinished run folder: its split, detectors, ensembles and predictions."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustbench_df.errors import RunError, UsageError, nearest
from robustbench_df.records import Predictions, Result, load_predictions, results_from_json
from robustbench_df.rundir import RunDir, find_run

if TYPE_CHECKING:
    import pandas as pd

    from robustbench_df.data.imageset import ImageSet
    from robustbench_df.metrics.calibration import Band, Decision
    from robustbench_df.metrics.weights import EnsembleWeights
    from robustbench_df.models.detector import Detector, Ensemble


class Run(RunDir):
    """Read access to a run. Detectors are returned in eval mode, loaded from safetensors."""

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the run's detectors."""
        return self.config.models

    @cached_property
    def split(self) -> pd.DataFrame:
        """The part of each image: columns ``image_id, part, fold`` (fold -1: a single split)."""
        path = self.file("split.parquet")
        if not path.exists():
            raise RunError(f"run '{self.path}' has no split.parquet; finish it with: {self.resume_command}")
        return _table(path)

    @cached_property
    def groups(self) -> dict[str, str]:
        """The group of each image id, "" for none; empty if the run has recorded no groups."""
        path = self.file("images.parquet")
        known: Any = _table(path) if path.exists() else {}
        return dict(zip(known["image_id"], known["group"], strict=True)) if "group" in known else {}

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels of the images the run was trained on."""
        folder = self.model_dir(self.models[0], 0 if self.folds > 1 else None)
        described = self.read_json(*folder.relative_to(self.path).parts, "model.json")
        height, width = described["image_size"]
        return int(height), int(width)

    @property
    def shipped(self) -> dict[str, str]:
        """The ensemble that is shipped: ``{"kind": …, "phase": …}``."""
        choice: dict[str, str] = self._kept("shipped")
        return choice

    @property
    def folds(self) -> int:
        """How often each detector was trained."""
        return max(int(self.split["fold"].max()) + 1, 1)

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the run's images."""
        return str(self.read_json("provenance.json")["data_fingerprint"])

    @property
    def sides(self) -> tuple[int, int] | None:
        """Smallest and largest shorter side of the images learnt from (train and val), in pixels before scaling.

        None for runs of earlier versions that scaled their images and did not record the sizes.
        """
        unscaled = None if self.config.data.size else (min(self.image_size),) * 2
        found = self.read_json("provenance.json").get("sides", unscaled)
        return (int(found[0]), int(found[1])) if found else None

    @property
    def allowed_findings(self) -> tuple[str, ...]:
        """Failing findings of the audit that were allowed when the run was trained; every report must name them."""
        return tuple(self.read_json("provenance.json").get("audit", {}).get("allowed", ()))

    def images(self) -> ImageSet:
        """Load the run's own images again.

        Raises:
            RunError: the source now holds other images than when the run was made.
        """
        from robustbench_df.data.sources import load_configured

        data = self.config.data
        images = load_configured(data, self.config.seed)
        if images.fingerprint != self.fingerprint:
            raise RunError(
                f"'{data.source}' has changed since run '{self.name}' (fingerprint {images.fingerprint}, then "
                f"{self.fingerprint}); restore it or train a new run"
            )
        return images

    @property
    def refitted(self) -> bool:
        """Whether every detector was also trained on all labelled images."""
        return all(self._checkpoint(name, "refit", "final").exists() for name in self.models)

    def _checkpoint(self, name: str, folder: str, phase: str) -> Path:
        return self.model_dir(name) / folder / f"{phase}.safetensors"

    def detector(self, name: str, phase: str | None = None, *, refit: bool = False) -> Detector:
        """Return one detector; with folds, the mean of the K detectors' probabilities.

        Args:
            name: one of `models`.
            phase: ``base`` (after clean training) or ``final`` (after adversarial fine-tuning); None: as shipped.
            refit: the detector trained on all labelled images, for which there is no validation result.
        """
        from robustbench_df.models.detector import Ensemble
        from robustbench_df.train.state import load_checkpoint

        self._known(name)
        phase = phase or self.shipped["phase"]
        folder = self.model_dir(name)
        if refit:
            return load_checkpoint(folder / "refit", phase)
        if self.folds == 1:
            return load_checkpoint(folder, phase)
        return Ensemble([load_checkpoint(self.model_dir(name, k), phase) for k in range(self.folds)]).eval()

    def _known(self, name: str) -> None:
        if name not in self.models:
            raise UsageError(
                f"run '{self.name}' has no model '{name}'{nearest(name, self.models)}; it has {', '.join(self.models)}"
            )

    def ensemble(self, kind: str | None = None, phase: str | None = None, *, refit: bool = False) -> Ensemble:
        """Return the ensemble with its fitted weights; ``kind`` and ``phase`` default to the shipped ones."""
        phase = phase or self.shipped["phase"]
        weights = self.weights(kind, phase)
        return assemble([self.detector(name, phase, refit=refit) for name in self.models], weights)

    def weights(self, kind: str | None = None, phase: str | None = None) -> EnsembleWeights:
        """Return the fitted weights, in the order of `models`."""
        from robustbench_df.metrics.weights import EnsembleWeights

        kind, phase = kind or self.shipped["kind"], phase or self.shipped["phase"]
        return EnsembleWeights.from_dict(self._fitted(phase, kind)["weights"])

    def decision(self, name: str = "ensemble", phase: str | None = None) -> Decision:
        """Return temperature and threshold of a detector, or of an ensemble (``ensemble``, ``ensemble-uniform`` …)."""
        from robustbench_df.metrics.calibration import Decision

        return Decision.from_dict(self._entry(name, phase)["decision"])

    def band(self, name: str = "ensemble", phase: str | None = None) -> Band | None:
        """Return the abstention band of a detector or an ensemble; None if none could be fitted."""
        from robustbench_df.metrics.calibration import Band

        kept = self._entry(name, phase).get("band")
        return None if kept is None else Band.from_dict(kept)

    def _entry(self, name: str, phase: str | None) -> dict[str, Any]:
        """Return the entry of a detector or ensemble (``ensemble``, ``ensemble-uniform`` …) in ``ensemble.json``."""
        phase = phase or self.shipped["phase"]
        if not name.startswith("ensemble"):
            self._known(name)
            entry: dict[str, Any] = self._kept(phase, "members", name)
            return entry
        return self._fitted(phase, name.removeprefix("ensemble").removeprefix("-") or self.shipped["kind"])

    def _fitted(self, phase: str, kind: str) -> dict[str, Any]:
        ensembles: dict[str, dict[str, Any]] = self._kept(phase, "ensembles")
        if kind not in ensembles:
            raise UsageError(
                f"unknown weighting '{kind}'{nearest(kind, ensembles)}; choose from {', '.join(ensembles)}"
            )
        return ensembles[kind]

    def _kept(self, *keys: str) -> Any:
        """Return the value under nested keys in ``ensemble.json``."""
        kept = self.read_json("ensemble.json")
        try:
            for key in keys:
                kept = kept[key]
        except (KeyError, TypeError) as error:
            path = self.file("ensemble.json")
            raise RunError(f"'{path}' is damaged: it has no {'.'.join(keys)}; restore it or train again") from error
        return kept

    def predictions(self, model: str, phase: str = "final", condition: str = "clean") -> Predictions:
        """Return the logits of one detector under one condition."""
        path = self.predictions_path(model, phase, condition)
        if not path.exists():
            raise RunError(f"run '{self.name}' has no predictions of {model} {phase} under {condition}")
        return load_predictions(path, self.fingerprint)

    @property
    def whole(self) -> bool:
        """Whether the records of data and split and all checkpoints are there."""
        folds = range(self.folds) if self.folds > 1 else (None,)
        files = [
            self.model_dir(name, k) / file
            for name in self.models
            for k in folds
            for file in ("model.json", "base.safetensors", "final.safetensors")
        ]
        return all(path.exists() for path in (self.file("provenance.json"), self.file("split.parquet"), *files))

    def predictions_path(self, model: str, phase: str, condition: str) -> Path:
        """Return the path of the predictions of one cell of the grid."""
        return self.file("predictions", f"{self.model_dir(model).name}-{phase}-{condition}.parquet")

    def results(self) -> list[Result]:
        """Return every number of ``results.json``."""
        path = self.file("results.json")
        if not path.exists():
            raise RunError(f"run '{self.path}' has no results yet; finish it with: {self.resume_command}")
        return results_from_json(path)


def _table(path: Path) -> pd.DataFrame:
    """Read one of a run's Parquet files.

    Raises:
        RunError: the file is damaged.
    """
    import pandas as pd
    import pyarrow as pa

    try:
        return pd.read_parquet(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise RunError(f"'{path}' is damaged ({error}); restore it or train again") from error


def assemble(members: list[Detector], weights: EnsembleWeights) -> Ensemble:
    """Build the differentiable ensemble that gives the same result as ``weights.combine`` on logits."""
    from robustbench_df.models.detector import Ensemble

    if weights.coefficients:
        return Ensemble(members, coefficients=weights.coefficients, intercept=weights.intercept).eval()
    return Ensemble(members, weights.weights).eval()


def open_run(path: Path | str | None = None, *, finished: bool | None = None) -> Run:
    """Open a run folder; None or ``runs/latest`` opens the latest one (see `find_run` for ``finished``).

    Raises:
        RunError: there is no such run, or it was written by a version with another schema.
    """
    run = Run(find_run(path, finished=finished).path)
    _ = run.config  # refuses another schema now rather than later
    return run
