"""Copies are made inside train, under their source's label, and repeatably."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from robustbench_df.attacks.fgsm import fgsm
from robustbench_df.config import AdversarialConfig, AugmentConfig, ModelConfig, PhaseConfig
from robustbench_df.data.split import Split, make_split
from robustbench_df.models.detector import Detector
from robustbench_df.models.zoo import build_detector
from robustbench_df.train import traindata
from robustbench_df.train.traindata import Copies, TrainData, draw_epsilons
from tests.conftest import learnable_set

AUGMENT = AugmentConfig(brightness=0.3)


def split_and_data() -> tuple[Split, TrainData]:
    split = make_split(learnable_set(120))
    return split, TrainData(split, "cpu")


def copies_of(data: TrainData) -> Copies:
    assert data.copies is not None
    return data.copies


def test_copies_follow_the_originals_with_their_sources_label() -> None:
    split, data = split_and_data()
    n = len(split.train)
    data.add_augmented(PhaseConfig(copies=n + 10), AUGMENT, seed=1)
    assert len(data) == 2 * n + 10
    x, y, keys = data.batch(torch.arange(len(data)))
    source = copies_of(data).source
    assert torch.equal(y[n:], y[source])
    assert len(torch.unique(keys)) == len(data)  # every copy has a stream of its own
    differs = (x[n:] - x[source]).abs().amax((1, 2, 3))
    assert float((differs > 0).float().mean()) > 0.9
    train_ids = set(split.images.ids[split.train])
    assert all(row["source"] in train_ids for row in data.provenance())
    labels = dict(zip(split.images.ids, split.images.labels, strict=True))
    assert all(row["label"] == labels[row["source"]] for row in data.provenance())
    # Every train image is used once before any is used twice.
    assert set(source[:n].tolist()) == set(range(n))


def test_copies_are_the_same_each_time() -> None:
    pixels = []
    for _ in range(2):
        _, data = split_and_data()
        data.add_augmented(PhaseConfig(copies=20), AUGMENT, seed=5)
        pixels.append(copies_of(data).pixels)
    assert torch.equal(pixels[0], pixels[1])


def test_adversarial_copies_lie_on_the_epsilon_ball() -> None:
    split, data = split_and_data()
    detector, _ = build_detector(ModelConfig(name="resnet_se_small", pretrained="never"), split.images.size)
    data.add_adversarial(AdversarialConfig(adversarial_copies=30, epsilons=(0.02, 0.08)), detector, seed=1)
    x, _, _ = data.batch(copies_of(data).source)
    distance = (copies_of(data).pixels.float() / 255 - x).abs().amax((1, 2, 3)) * 255
    assert set(distance.round().int().tolist()) == {5, 20}  # 0.02 and 0.08 of 255, rounded to whole levels


def test_both_kinds_of_copies_lie_one_behind_the_other() -> None:
    split, data = split_and_data()
    n = len(split.train)
    data.add_augmented(PhaseConfig(copies=7), AUGMENT, seed=1)
    first, _, _ = data.batch(torch.arange(n, n + 7))
    detector, _ = build_detector(ModelConfig(name="mlp", pretrained="never"), split.images.size)
    data.add_adversarial(AdversarialConfig(adversarial_copies=5), detector, seed=1)
    assert len(data) == n + 12
    assert copies_of(data).kinds == ("augmented",) * 7 + ("adversarial",) * 5
    mixed, labels, _ = data.batch(torch.tensor([n + 2, 3, n + 11]))
    assert torch.equal(mixed[0], first[2])
    assert torch.equal(mixed[1], data.batch(torch.tensor([3]))[0][0])
    assert labels[2] == data.batch(copies_of(data).source[11:])[1][0]
    assert [row["kind"] for row in data.provenance()] == list(copies_of(data).kinds)


def test_where_memory_runs_out_copies_are_attacked_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    split, data = split_and_data()
    detector, _ = build_detector(ModelConfig(name="mlp", pretrained="never"), split.images.size)
    config = AdversarialConfig(adversarial_copies=30)
    data.add_adversarial(config, detector, seed=1)
    whole, sizes = copies_of(data).pixels, list[int]()

    def scarce(detector: Detector, x: Tensor, *rest: Any) -> Tensor:
        sizes.append(len(x))
        if len(x) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return fgsm(detector, x, *rest)

    monkeypatch.setattr(traindata, "fgsm", scarce)
    again = TrainData(split, "cpu")
    again.add_adversarial(config, detector, seed=1)
    assert max(sizes) == 30
    assert sizes[-1] <= 10
    assert torch.equal(copies_of(again).pixels, whole)


def test_epsilons_are_drawn_evenly_per_image() -> None:
    config = AdversarialConfig(epsilons=(0.02, 0.03, 0.05, 0.08))
    keys = torch.arange(4000)
    drawn = draw_epsilons(config, keys, 0)
    shares = [(drawn == torch.tensor(e)).float().mean() for e in config.epsilons]
    assert all(abs(float(s) - 0.25) < 0.03 for s in shares)
    assert torch.equal(draw_epsilons(config, keys[7:8], 0), drawn[7:8])
