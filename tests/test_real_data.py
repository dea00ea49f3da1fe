"""On the real archives, where they are: layouts, counts, splits and the second start."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

import robustbench_df as rdf
from robustbench_df.config import SplitConfig
from robustbench_df.data.split import make_folds, make_split
from robustbench_df.inference import challenge_order, select

pytestmark = pytest.mark.real


def test_the_challenge(real_data: Path) -> None:
    images = rdf.load_images(real_data / "synergy25.zip")
    assert images.layout == "challenge"
    assert len(images) == 2500
    assert images.size == (32, 32)
    assert [int((images.labels == k).sum()) for k in (0, 1, -1)] == [1000, 1000, 500]
    numbers = [n for n, _ in challenge_order([str(i) for i in images.ids[select(images)]])]
    assert numbers == list(range(1, 501))
    labelled = images.labelled()
    agreement = (images.predictions[labelled] == images.folder_labels[labelled]).mean()
    assert 0.95 < agreement < 1
    black_box = rdf.load_images(real_data / "synergy25.zip", labels="predictions")
    assert (black_box.labels[labelled] == images.predictions[labelled]).all()
    folds = make_folds(images, SplitConfig(), 5)
    assert sorted(np.concatenate([f.cal for f in folds])) == sorted(labelled)


def test_cifake_keeps_its_own_test_part(real_data: Path) -> None:
    images = rdf.load_images(real_data / "cifake-12k.zip")
    split = make_split(images, SplitConfig())
    assert split.counts()["test"] == {"real": 1000, "fake": 1000}
    twins = [f for f in split.findings if f.kind == "twin-left-out"]
    used = sum(len(split.part(p)) for p in ("train", "val", "cal", "test"))
    assert used + len(twins) == 12_000
    hashes = [set(images.hashes[split.part(p)].tolist()) for p in ("train", "val", "cal", "test")]
    assert sum(len(h) for h in hashes) == len(set().union(*hashes))


def test_a_second_start_is_fast_and_the_same(real_data: Path) -> None:
    """Not a speed claim (experiments hold those): a guard against decoding everything again."""
    first = rdf.load_images(real_data / "cifake-12k.zip")
    start = time.perf_counter()
    again = rdf.load_images(real_data / "cifake-12k.zip")
    assert time.perf_counter() - start < 2
    assert again.fingerprint == first.fingerprint
    assert isinstance(again.data, np.memmap)
