"""Shared by all tests: where real data may be, a private cache, one thread, and a small set that can be learnt."""

from __future__ import annotations

import os
from pathlib import Path

# Two busy processes with two threads each are far slower than with one each; set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Test processes that run beside one another are told of a terminal of 80 columns, which is not there.
os.environ.pop("COLUMNS", None)

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_df.data.imageset import ImageSet, image_set_from_arrays
from robustbench_df.progress import Reporter

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _private_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDF_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def real_data(request: pytest.FixtureRequest) -> Path:
    """The folder of real archives (RDF_DATA, or ../shared/data beside the repository); skips where it is absent."""
    folder = Path(os.environ.get("RDF_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "synergy25.zip").is_file():
        pytest.skip(f"no real data at {folder}; set RDF_DATA to a folder with synergy25.zip and cifake-12k.zip")
    return folder


class Stages(Reporter):
    """Keeps every stage as ``(title, steps announced, steps told of)``."""

    def __init__(self) -> None:
        self.all: list[tuple[str, int | None, int]] = []

    def start(self, title: str, steps: int | None, done: int = 0, unit: str = "images") -> None:  # noqa: ARG002
        """Open a stage."""
        self.all.append((title, steps, done))

    def advance(self, images: int) -> None:
        """Add to the stage under way."""
        title, steps, done = self.all[-1]
        self.all[-1] = (title, steps, done + images)


class Heard(Reporter):
    """Keeps every line in order, the titles of stages among them, and warnings also by themselves."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def start(self, title: str, steps: int | None, done: int = 0, unit: str = "images") -> None:  # noqa: ARG002
        """Keep the title of a stage."""
        self.lines.append(title)

    def say(self, text: str) -> None:
        """Keep a line."""
        self.lines.append(text)

    def warn(self, text: str) -> None:
        """Keep a warning, and as a line, too."""
        self.lines.append(text)
        self.warnings.append(text)


class Scarce(nn.Module):
    """A network on a device that holds the work of ``most`` images; ``asked`` keeps how many were tried each time."""

    def __init__(self, net: nn.Module, most: int) -> None:
        super().__init__()
        self.net, self.most, self.asked = net, most, list[int]()

    def forward(self, x: Tensor) -> Tensor:
        """Refuse what does not fit, as CUDA does."""
        self.asked.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        logits: Tensor = self.net(x)
        return logits


def learnable_set(n: int = 160, size: int = 16, seed: int = 0) -> ImageSet:
    """Noise images; the fake ones carry a faint checkerboard, which a small network learns in a few steps."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    base = rng.normal(128, 40, (n, 3, size, size))
    board = np.indices((size, size)).sum(0) % 2 * 2 - 1
    data = (base + 18 * labels[:, None, None, None] * board).clip(0, 255).astype(np.uint8)
    return image_set_from_arrays(data, labels)
