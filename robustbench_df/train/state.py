"""Training state from which an interrupted phase resumes exactly, and the checkpoint of a finished phase."""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustbench_df.config import ModelConfig
from robustbench_df.errors import RunError, first_line
from robustbench_df.memory import is_out_of_memory
from robustbench_df.models.detector import Detector
from robustbench_df.models.zoo import build_detector
from robustbench_df.rundir import write_atomic, write_json
from robustbench_df.settings import validated

Weights = dict[str, Tensor]


@dataclass
class Progress:
    """The state of a phase after its last finished epoch.

    ``best_score`` and ``best_epoch`` refer to val. ``best`` holds the weights to be kept (on the CPU). ``plateau`` is
    the learning-rate factor of the ``plateau`` schedule, and ``plateau_epoch`` the epoch when it last changed.
    """

    epoch: int = 0
    best_score: float = float("-inf")
    best_epoch: int = -1
    best: Weights = field(default_factory=dict)
    plateau: float = 1.0
    plateau_epoch: int = 0
    micro_batch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)


def snapshot(module: nn.Module) -> Weights:
    """Copy a module's tensors to contiguous CPU memory."""
    # safetensors refuses channels_last tensors; clone() so that later steps cannot change the copy.
    return {k: v.detach().to("cpu", copy=True).contiguous() for k, v in module.state_dict().items()}


@dataclass(frozen=True, eq=False)
class Trained:
    """The objects that the steps of a phase change in place.

    ``ema`` is the running average of the detector's weights, or None. ``norms`` are the batch normalisation layers for
    attacked images, trained along with the detector (`robustbench_df.train.norms`).
    """

    detector: Detector
    ema: Detector | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    norms: nn.Module | None = None

    def stateful(self) -> dict[str, Any]:
        """Return every part that has a ``state_dict``, by name."""
        parts = {k: getattr(self, k) for k in ("detector", "ema", "optimizer", "scaler", "norms")}
        return {name: part for name, part in parts.items() if part is not None}


def save_state(path: Path, progress: Progress, trained: Trained) -> None:
    """Write everything that the next epoch depends on, atomically."""
    state = {"progress": asdict(progress), **{k: part.state_dict() for k, part in trained.stateful().items()}}
    # Serialise in memory first: on a full disk, torch and safetensors replace the system's error by one of their own.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()  # no copy, and no view of the buffer outlives an error (Python 3.13 warns of those)
    write_atomic(path, lambda temporary: temporary.write_bytes(content))


def load_state(path: Path, trained: Trained) -> Progress:
    """Restore a phase in place; returns a fresh `Progress` if nothing was saved.

    Raises:
        RunError: the file is damaged or was saved with other settings, or memory ran out.
    """
    if not path.exists():
        return Progress()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        for name, part in trained.stateful().items():
            part.load_state_dict(state[name])
        return Progress(**state["progress"])
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise RunError(f"no memory is left to go on from '{path}', which is whole; free some and resume") from error
        raise RunError(
            f"'{path}' cannot be resumed from ({first_line(error)}); remove it to train this phase again"
        ) from error


def save_model_config(folder: Path, config: ModelConfig, size: tuple[int, int]) -> None:
    """Write ``model.json``: the resolved architecture and the image size (height, width) it was built for."""
    write_json(folder / "model.json", {"model": config.model_dump(mode="json"), "image_size": list(size)})


def save_weights(path: Path, weights: Weights) -> None:
    """Write a safetensors checkpoint atomically."""
    from safetensors.torch import save

    data = save(weights)
    write_atomic(path, lambda temporary: temporary.write_bytes(data))


def load_checkpoint(folder: Path, phase: str) -> Detector:
    """Rebuild a detector from its checkpoint, in eval mode. Nothing is unpickled.

    Raises:
        RunError: the checkpoint is missing, damaged or from another version of its network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / f"{phase}.safetensors"
    try:
        detector, _ = resolved_detector(folder)
        detector.load_state_dict(load_file(path))
    except FileNotFoundError as error:
        raise RunError(
            f"no checkpoint '{error.filename or path}'; finish training with: rdf train-all --resume"
        ) from error
    except (KeyError, TypeError) as error:
        raise RunError(f"'{folder / 'model.json'}' is damaged: {error!r}; train the run again") from error
    except (SafetensorError, json.JSONDecodeError) as error:
        raise RunError(f"checkpoint '{path}' is damaged: {first_line(error)}") from error
    except RuntimeError as error:  # raised by torch when names or shapes differ; its message has a line for each
        raise RunError(f"checkpoint '{path}' is of another version of this network; train the run again") from error
    return detector.eval()


def resolved_detector(folder: Path) -> tuple[Detector, ModelConfig]:
    """Build the architecture that ``model.json`` describes, untrained; returns it with its config, without network."""
    described = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    height, width = described["image_size"]
    return build_detector(validated(ModelConfig, described["model"]), (height, width))
