"""The files that training leaves behind."""

from __future__ import annotations

import errno
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from robustbench_df.config import ModelConfig
from robustbench_df.errors import RunError
from robustbench_df.models.detector import Detector
from robustbench_df.models.zoo import build_detector
from robustbench_df.train.state import (
    Progress,
    Trained,
    load_checkpoint,
    load_state,
    save_model_config,
    save_state,
    save_weights,
    snapshot,
)

LIMIT = 10_000
"""Bytes a file may have: a disk as full as a test can make it."""


@contextmanager
def full_disk() -> Iterator[None]:
    """Not a fixture: between a test and its tear-down pytest writes its report, which may be a longer file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_the_systems_error_and_leaves_nothing(tmp_path: Path) -> None:
    """The command line turns an OSError into one line; torch's and safetensors' own errors would be tracebacks."""
    net = nn.Linear(100, 100)
    optimizer = torch.optim.AdamW(net.parameters())
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    with full_disk(), pytest.raises(OSError, match="File too large") as state:
        save_state(tmp_path / "state.pt", Progress(), Trained(Detector(net), None, optimizer, scaler))
    with full_disk(), pytest.raises(OSError, match="File too large") as weights:
        save_weights(tmp_path / "base.safetensors", dict(net.state_dict()))
    assert state.value.errno == weights.value.errno == errno.EFBIG
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_that_does_not_load_says_why_in_one_line(tmp_path: Path) -> None:
    detector, resolved = build_detector(ModelConfig(name="mlp"), (8, 8))
    save_model_config(tmp_path, resolved, (8, 8))
    weights = snapshot(detector)
    save_weights(tmp_path / "base.safetensors", weights)
    load_checkpoint(tmp_path, "base")
    first = next(iter(weights))
    save_weights(tmp_path / "base.safetensors", {**weights, first: torch.zeros(1, 2, 3)})
    with pytest.raises(RunError, match=r"base.safetensors' is of another version of this network; train [^\n]+$"):
        load_checkpoint(tmp_path, "base")
    (tmp_path / "base.safetensors").write_bytes(b"no weights")
    with pytest.raises(RunError, match=r"base.safetensors' is damaged: [^\n]+$"):
        load_checkpoint(tmp_path, "base")
    (tmp_path / "model.json").write_text("{}")
    with pytest.raises(RunError, match=r"model.json' is damaged: KeyError\('image_size'\); train the run again"):
        load_checkpoint(tmp_path, "base")


def test_a_full_device_does_not_tell_one_to_delete_what_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = Detector(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)))
    optimizer = torch.optim.AdamW(detector.parameters())
    trained = Trained(detector, None, optimizer, torch.amp.GradScaler("cpu", enabled=False))
    save_state(tmp_path / "state.pt", Progress(), trained)

    def full(_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB")

    monkeypatch.setattr(optimizer, "load_state_dict", full)
    with pytest.raises(RunError, match=r"no memory is left to go on from .*state\.pt', which is whole"):
        load_state(tmp_path / "state.pt", trained)
