"""A run that is killed, alone or with its workers, and resumed: as if nothing had happened."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from robustbench_df.config import load_config
from robustbench_df.pipeline import train_all
from tests.conftest import learnable_set
from tests.runs import SMALL, write_folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(learnable_set(200), tmp_path_factory.mktemp("images"))


def final_weights(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    return {str(p.relative_to(folder)): load_file(p) for p in sorted(folder.rglob("*.safetensors"))}


def require_same(one: Path, other: Path) -> None:
    """Compare all weights bit for bit, and all results."""
    left, right = final_weights(one), final_weights(other)
    assert left.keys() == right.keys()
    for file in left:
        assert all(np.array_equal(left[file][k], right[file][k]) for k in left[file]), file
    results = [json.loads((p / "results.json").read_text()) for p in (one, other)]
    assert results[0] == results[1]


def test_kill_nine_at_random_points_changes_nothing(source: Path, tmp_path: Path) -> None:
    """SIGKILL three times at random moments, resume, and compare with a run that was left alone."""
    overrides = [*SMALL, "phase1.epochs=14", "phase2.epochs=6", "models=['resnet_se_small']"]
    options = [part for o in overrides for part in ("--set", o)]
    command = [sys.executable, "-m", "robustbench_df", "train-all", "--quiet", "--run", str(tmp_path / "killed")]
    first = [*command, "--data", str(source), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    rng = random.Random(0)
    kills, survived, start_up = 0, 0, 0.0
    for attempt in range(12):
        started = (tmp_path / "killed" / "config.json").exists()
        began = time.monotonic()
        process = subprocess.Popen([*command, "--resume"] if started else first, env=environment)
        if kills < 3:
            # Wait until training has begun, then a random moment more: start-up itself is not interesting.
            deadline = time.monotonic() + 60
            while not list((tmp_path / "killed").rglob("*-state.pt")) and time.monotonic() < deadline:
                if process.poll() is not None:
                    break
                time.sleep(0.01)
            if started:
                time.sleep(start_up)  # the saved state is there already; let the resumed process begin
            time.sleep(rng.uniform(0.02, 0.4))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
                survived = max(survived, len(list((tmp_path / "killed").rglob("*-state.pt"))))
        if process.wait() == 0:
            break
        start_up = start_up or 0.8 * (time.monotonic() - began)
        assert attempt < 11
    assert kills >= 2
    assert survived  # at least one kill left a half-trained state, which the resumed run went on from
    whole = train_all(load_config("full", overrides=overrides, data={"source": str(source)}), tmp_path / "whole")
    require_same(whole.path, tmp_path / "killed")


def children(parent: int) -> list[int]:
    """The living processes that ``parent`` has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, its_parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            found += [int(folder.name)] if int(its_parent) == parent and state != "Z" else []
    return found


def lives(process: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to know the workers by")
def test_killed_with_its_workers_at_work_and_resumed_at_once(tmp_path: Path) -> None:
    """SIGKILL of the process that started them: they end, and write nothing into what is resumed."""
    source = write_folder(learnable_set(80), tmp_path / "images")
    overrides = [*SMALL, "models=['resnet_se_small']", "phase1.epochs=8", "phase2.epochs=0", "attack_images=10"]
    overrides += ["split.folds=2", "speed.threads=1"]
    config = load_config("full", overrides=overrides, data={"source": str(source)})
    killed, options = tmp_path / "killed", [part for o in overrides for part in ("--set", o)]
    command = [sys.executable, "-m", "robustbench_df", "train-all", "--quiet", "--jobs", "2", *options]
    process = subprocess.Popen(
        [*command, "--run", str(killed), "--data", str(source)], env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    while not list(killed.rglob("*-state.pt")) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(random.Random(0).uniform(0, 0.3))
    workers = children(process.pid)
    process.kill()
    process.wait()
    assert len(workers) == 2
    assert list(killed.rglob("*-state.pt"))  # in the middle of it
    train_all(config, killed, resume=True, jobs=2)
    assert not any(lives(worker) for worker in workers)
    require_same(train_all(config, tmp_path / "whole", jobs=1).path, killed)
