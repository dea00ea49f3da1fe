"""What train_all says of the data before it trains: what was left out, and what a split would divide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from robustbench_df.config import load_config
from robustbench_df.pipeline import train_all
from robustbench_df.progress import Reporter
from robustbench_df.run import Run
from tests.conftest import learnable_set

QUICK = [
    "phase1.epochs=1",
    "phase2.epochs=0",
    "models=['mlp']",
    "per_model={}",
    "split.folds=1",
    "split.near_copies=false",
    "speed.threads=1",
]


class Warned(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warn(self, text: str) -> None:
        self.lines.append(text)


def write_videos(folder: Path, videos: int = 20, frames: int = 6) -> Path:
    """Write as many folders of frames, real and fake in turn, and one folder that says neither."""
    images = learnable_set(videos * frames)
    for label in (0, 1):
        rows = np.flatnonzero(images.labels == label)
        for k, row in enumerate(rows):
            path = folder / ("fake" if label else "real") / f"{label}_{k // frames:03d}" / f"{k % frames}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images.data[row].transpose(1, 2, 0)).save(path)
    (folder / "Face2Face").mkdir()
    Image.fromarray(images.data[0].transpose(1, 2, 0)).save(folder / "Face2Face" / "1.png")
    (folder / "notes.txt").write_text("")
    return folder


def train(source: Path, run: Path, *overrides: str) -> tuple[Run, list[str]]:
    reporter = Warned()
    config = load_config("quick", overrides=[*QUICK, *overrides], data={"source": str(source)}, allow_findings=True)
    return train_all(config, run, jobs=1, reporter=reporter), reporter.lines


def divided(run: Run) -> int:
    """Count the folders that lie in more than one part of a run's split."""
    parts = run.split.assign(folder=run.split["image_id"].str.rpartition("/")[0])
    return int((parts.groupby("folder")["part"].nunique() > 1).sum())


def test_what_is_left_out_and_what_a_split_divides_is_told_and_folders_can_be_kept_whole(tmp_path: Path) -> None:
    source = write_videos(tmp_path / "set")
    run, lines = train(source, tmp_path / "apart")
    assert any(line.startswith("outside-classes: 1 of 121 images left out") and "Face2Face" in line for line in lines)
    assert "not-an-image: 1 other file ignored: 1 .txt" in lines
    assert any(line.startswith("groups-in-names: 20 groups") and "--group-by folder" in line for line in lines)
    assert divided(run) > 10
    run, lines = train(source, tmp_path / "together", "data.group_by=folder")
    assert not any(line.startswith("groups-in-names") for line in lines)
    assert divided(run) == 0
