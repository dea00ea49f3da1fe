"""Corruptions in training: a share of the images, keyed by image, noise and JPEG and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robustbench_df.config import AugmentConfig, PhaseConfig, SplitConfig
from robustbench_df.corruptions.catalogue import CORRUPTIONS
from robustbench_df.corruptions.codecs import jpeg
from robustbench_df.corruptions.suite import corrupt
from robustbench_df.data.split import make_split
from robustbench_df.train import corrupted as module
from robustbench_df.train.augment import augment
from robustbench_df.train.corrupted import TRAINED, corrupted
from robustbench_df.train.traindata import TrainData
from tests.conftest import learnable_set
from tests.corruptions.helpers import floats

OFF = {"flip": 0.0, "shift": 0.0}
IDS = torch.arange(400)


def grey(n: int = 400) -> Tensor:
    return torch.full((n, 3, 8, 8), 100 / 255)


def changed(x: Tensor, out: Tensor) -> Tensor:
    return (out != x).flatten(1).any(1)


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_that_share_of_the_images_is_corrupted_to_8_bit_levels(share: float) -> None:
    x = floats(400, 8, 8)
    out = corrupted(x, share, IDS, 0, "epoch")
    assert changed(x, out).float().mean().item() == pytest.approx(share, abs=0.07)
    assert torch.allclose(out * 255, (out * 255).round(), atol=1e-3)
    assert torch.equal(x, floats(400, 8, 8))
    assert torch.equal(corrupted(x, 0.0, IDS, 0, "epoch"), x)


def test_an_image_meets_the_same_in_any_batch_and_another_in_another_epoch() -> None:
    x = floats(60, 16, 16)
    whole = corrupted(x, 0.7, IDS[:60], 3, 1)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(0))[:11]
    assert torch.equal(corrupted(x[order], 0.7, IDS[order], 3, 1), whole[order])
    assert not torch.equal(corrupted(x, 0.7, IDS[:60], 3, 2), whole)
    assert not torch.equal(corrupted(x, 0.7, IDS[:60], 4, 1), whole)


def test_each_of_the_trained_is_met_at_every_severity_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    met: dict[tuple[str, int], int] = {}

    def spy(x: Tensor, name: str, severity: int, **options: object) -> Tensor:
        met[name, severity] = met.get((name, severity), 0) + len(x)
        return corrupt(x, name, severity, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "corrupt", spy)
    corrupted(grey(), 1.0, IDS, 0)
    assert set(met) == {(name, severity) for name in TRAINED for severity in (1, 2, 3, 4, 5)}
    assert sum(met.values()) == 400


def test_blur_and_all_other_families_are_held_out() -> None:
    noise = {name for name in CORRUPTIONS if name.endswith("_noise")}
    assert set(TRAINED) == noise | {"jpeg_compression", "jpeg_quality"}
    assert not {name for name in TRAINED if "blur" in name}


def test_augment_does_it_last_and_only_when_asked_for() -> None:
    x = floats(40, 16, 16)
    ids = IDS[:40]
    alone = augment(x, AugmentConfig.model_validate({**OFF, "corruption": 1.0}), ids, 0, 1)
    assert torch.equal(alone, corrupted(x, 1.0, ids, 0, 1))
    assert changed(x, alone).all()
    plain = augment(x, AugmentConfig(), ids, 0, 1)
    assert torch.equal(augment(x, AugmentConfig(corruption=0.6), ids, 0, 1), corrupted(plain, 0.6, ids, 0, 1))
    assert AugmentConfig().corruption == 0


def test_fixed_copies_carry_it_inside_train_only() -> None:
    split = make_split(learnable_set(80), SplitConfig(train=0.5, val=0.2, cal=0.1, test=0.2, seed=0))
    data, how = TrainData(split, "cpu"), AugmentConfig.model_validate({**OFF, "corruption": 1.0})
    data.add_augmented(PhaseConfig(copies=30), how, 0)
    copies = data.copies
    assert copies is not None
    sources = split.images.pixels(split.train[copies.source.numpy()])
    assert changed(torch.from_numpy(sources), copies.pixels).all()
    held_out = {*split.val.tolist(), *split.cal.tolist(), *split.test.tolist()}
    assert not set(split.train[copies.source.numpy()].tolist()) & held_out


def test_jpeg_traces_are_really_there() -> None:
    """Saving a picture again at the same quality changes almost nothing: the tell-tale of a JPEG."""
    x = floats(40, 32, 32)
    out = corrupt((x * 255).round().to(torch.uint8), "jpeg_compression", 5).float() / 255
    assert (jpeg(out, 40) - out).abs().mean() < 0.5 * (jpeg(x, 40) - x).abs().mean()
