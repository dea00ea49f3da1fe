"""Detectors trained at the same time: the same weights, the same errors, and no process left behind."""

from __future__ import annotations

import io
import pickle
import signal
import subprocess
import sys
import warnings
from collections import deque
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from robustbench_df.config import SplitConfig, load_config
from robustbench_df.data.sources import load_images
from robustbench_df.data.split import Split, make_folds
from robustbench_df.errors import RunError, TrainError
from robustbench_df.progress import Reporter
from robustbench_df.train import side_by_side
from robustbench_df.train.job import Job
from robustbench_df.train.side_by_side import Task, cores, fit_all, how_many
from robustbench_df.train.speed import Setting
from robustbench_df.train.worker import DONE, FAILED, send, serve
from tests.conftest import learnable_set
from tests.runs import write_folder

FOLDS = 2


@pytest.fixture(scope="module")
def splits() -> list[Split]:
    return make_folds(learnable_set(60), SplitConfig(near_copies=False), FOLDS)


def tasks(folder: Path, **phase: Any) -> list[Task]:
    config = load_config(
        "full",
        per_model={},
        model={"frontend": "rgb", "pretrained": "never"},
        phase1={"epochs": 1, "image_budget": 0, **phase},
        phase2={"epochs": 0},
    )
    recipe = config.for_model("mlp")
    return [(Job("mlp", recipe, folder / f"{k}", Setting(threads=1), fold=k), k) for k in range(FOLDS)]


class Log(Reporter):
    def __init__(self) -> None:
        self.parts: list[Log] = []
        self.heard: list[str] = []

    def beside(self) -> Reporter:
        self.parts.append(Log())
        return self.parts[-1]

    # The base class gives the signature; only some of it is heard here.
    def start(self, title: str, steps: int | None, done: int = 0, unit: str = "images") -> None:  # noqa: ARG002
        self.heard.append(title)

    def epoch(self, row: dict[str, Any]) -> None:
        self.heard.append(f"epoch {row['epoch']}")


def test_weights_are_those_of_one_after_the_other(splits: list[Split], tmp_path: Path) -> None:
    alone, together, log = tmp_path / "alone", tmp_path / "together", Log()
    spent: dict[int, float] = {}
    fit_all(tasks(alone), splits, 1, Reporter())
    fit_all(tasks(together), splits, 2, log, lambda job, seconds: spent.__setitem__(job.fold, seconds))
    for k in range(FOLDS):
        for name in ("base.safetensors", "final.safetensors", "base-copies.json"):
            assert (alone / f"{k}" / name).read_bytes() == (together / f"{k}" / name).read_bytes()
    titles = sorted(title for part in log.parts for title in part.heard if "base" in title)
    assert titles == ["mlp fold 1 · base", "mlp fold 2 · base"]
    assert sum(part.heard.count("epoch 1") for part in log.parts) == FOLDS
    assert not log.heard
    assert min(spent[0], spent[1]) > 0


def test_a_single_task_is_no_reason_to_start_a_process(
    splits: list[Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(side_by_side, "_Worker")
    fit_all(tasks(tmp_path)[1:], splits, 2, Reporter())
    assert (tmp_path / "1" / "final.safetensors").exists()


def test_an_error_is_told_and_the_next_job_is_taken(splits: list[Split], tmp_path: Path) -> None:
    source, channel = io.BytesIO(), io.BytesIO()
    send(splits, source)
    send(tasks(tmp_path / "bad", lr=1e30, batch_size=8, clip_norm=0.0)[0], source)
    send(tasks(tmp_path / "good")[1], source)
    source.seek(0)
    before = warnings.showwarning
    with warnings.catch_warnings():
        serve(source, channel)
    assert warnings.showwarning is before
    channel.seek(0)
    events = []
    while channel.tell() < len(channel.getvalue()):
        events.append(pickle.load(channel))
    ends = [(name, arguments) for name, arguments in events if name in (DONE, FAILED)]
    assert [name for name, _ in ends] == [FAILED, DONE]
    assert isinstance(ends[0][1][0], TrainError)
    assert "the loss is not finite at epoch 1" in str(ends[0][1][0])


def test_an_error_of_the_system_is_that_of_one_process(splits: list[Split], tmp_path: Path) -> None:
    for k in range(FOLDS):
        (tmp_path / f"{k}").write_text("where the folder should be")
    told = []
    for at_once in (1, FOLDS):
        with pytest.raises(FileExistsError) as caught:
            fit_all(tasks(tmp_path), splits, at_once, Reporter())
        told.append((caught.value.strerror, Path(caught.value.filename).parent))
    assert told == [("File exists", tmp_path)] * 2


def test_a_bug_in_a_process_comes_with_its_own_traceback(splits: list[Split], tmp_path: Path) -> None:
    bad = [(job, FOLDS) for job, _ in tasks(tmp_path)]  # there is no such split
    with pytest.raises(RuntimeError, match=r"(?s)trained mlp fold . failed:.Traceback .*worker\.py.*IndexError: list"):
        fit_all(bad, splits, FOLDS, Reporter())


def test_an_error_in_one_is_raised_and_ends_all(splits: list[Split], monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []

    class Failing(side_by_side._Worker):
        def __init__(self, heard: SimpleQueue[Any], reporter: Reporter) -> None:
            self.reporter, self.job, self._heard, self._since = reporter, None, heard, 0.0

        def take(self, waiting: deque[Task]) -> None:
            self.job = waiting.popleft()[0]
            self._heard.put((self, FAILED, (TrainError(f"fold {self.job.fold}"),)))

        def send(self, value: Any) -> None:
            pass

        def end(self) -> None:
            ended.append(self.job)

    monkeypatch.setattr(side_by_side, "_Worker", Failing)
    with pytest.raises(TrainError, match="fold 0"):
        fit_all(tasks(Path("nowhere")), splits, 2, Reporter())
    assert len(ended) == FOLDS


def test_a_killed_process_is_one_line(splits: list[Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []

    class Doomed(side_by_side._Worker):
        def take(self, waiting: Any) -> None:
            super().take(waiting)
            started.append(self._process)
            self._process.send_signal(signal.SIGKILL)

    monkeypatch.setattr(side_by_side, "_Worker", Doomed)
    with pytest.raises(RunError, match=r"trained mlp was killed.*--resume --jobs 1"):
        fit_all(tasks(tmp_path), splits, 2, Reporter())
    assert all(process.poll() is not None for process in started)


def test_a_process_that_gives_up_is_not_said_to_lack_memory(
    splits: list[Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Unable(side_by_side._Worker):
        def send(self, _: Any) -> None:
            super().send("no job")

    monkeypatch.setattr(side_by_side, "_Worker", Unable)
    with pytest.raises(RunError, match=r"trained mlp came to an end with exit status 1 .*--resume --jobs 1"):
        fit_all(tasks(tmp_path), splits, 2, Reporter())


def test_a_process_ends_with_whoever_started_it(splits: list[Split], tmp_path: Path) -> None:
    """The end of its input and a closed output are all that a process learns of its parent's death by SIGKILL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "robustbench_df.train.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    send(splits, process.stdin)
    send(tasks(tmp_path, epochs=100_000)[0], process.stdin)
    assert pickle.load(process.stdout)[0] == "start"
    for pipe in (process.stdin, process.stdout):
        pipe.close()
    complaint = process.stderr.read()
    process.stderr.close()
    assert process.wait(30) != 0
    assert complaint == b""


def test_a_process_ends_with_its_input_whatever_it_is_at(splits: list[Split], tmp_path: Path) -> None:
    """As it does in a long validation, of which nothing is told: here its output stays open, so only the input ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "robustbench_df.train.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        send(splits, process.stdin)
        send(tasks(tmp_path, epochs=100_000)[0], process.stdin)
        assert pickle.load(process.stdout)[0] == "start"
        process.stdin.close()
        assert process.wait(30) != 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_pixels_on_disk_travel_by_name(tmp_path: Path) -> None:
    np.save(tmp_path / "pixels.npy", learnable_set(60).data)
    mapped = np.load(tmp_path / "pixels.npy", mmap_mode="r")
    changed = np.load(tmp_path / "pixels.npy", mmap_mode="c")  # its changes are in memory alone
    changed[0] = 7
    parts = ((mapped, True), (mapped[:40], True), (mapped[5:][3:], True), (mapped[:0], True))
    for array, small in (*parts, (mapped[::2], False), (changed, False), (np.array(mapped), False)):
        pipe = io.BytesIO()
        send(array, pipe)
        assert (len(pipe.getvalue()) < 1000) is small
        assert np.array_equal(pickle.loads(pipe.getvalue()), array)


@pytest.mark.parametrize("unreadable", [0, 2])
def test_the_pixels_of_a_folder_travel_by_name(tmp_path: Path, unreadable: int) -> None:
    """Those of a set with unreadable images too, which are the first rows of what is in the file."""
    write_folder(learnable_set(60), tmp_path / "images")
    for k in range(unreadable):
        (tmp_path / "images" / "fake" / f"{2 * k + 1}.png").write_bytes(b"nothing")
    images = load_images(tmp_path / "images")
    assert len(images) == 60 - unreadable
    pipe = io.BytesIO()
    send(images.data, pipe)
    assert len(pipe.getvalue()) < 1000 < images.data.nbytes
    assert np.array_equal(pickle.loads(pipe.getvalue()), images.data)


def test_how_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(side_by_side, "cores", lambda: 4)
    monkeypatch.setattr(side_by_side, "_free_memory", lambda: 64 << 30)
    assert [how_many(n, "cpu") for n in (1, 3, 8, 30)] == [1, 1, 2, 4]
    assert how_many(30, "cuda") == 1
    assert [how_many(30, "cpu", threads=n) for n in (1, 2, 3, 9)] == [4, 2, 1, 1]
    monkeypatch.setattr(side_by_side, "_free_memory", lambda: 5 << 30)
    assert how_many(30, "cpu") == 2
    assert how_many(30, "cpu", 64 * 224 * 224) == 1  # the batches of two would not fit
    monkeypatch.setattr(side_by_side, "_free_memory", lambda: 1)
    assert how_many(30, "cpu") == 1
    assert cores() >= 1
