"""Augmentation: keyed by image, exact where it says so, and inside [0, 1]."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional as reference

from robustbench_df.config import AugmentConfig
from robustbench_df.train import trivial
from robustbench_df.train.augment import augment, mix

IDS = torch.arange(40)
OFF = {"flip": 0.0, "shift": 0.0}
KINDS = [
    {"flip": 1.0},
    {"vertical_flip": 1.0},
    {"shift": 0.2},
    {"rotation": 20.0},
    {"scale": 0.2},
    {"perspective": 0.3},
    {"brightness": 0.3},
    {"contrast": 0.3},
    {"saturation": 0.5},
    {"hue": 0.2},
    {"erase": 1.0},
    {"cutout": 0.4},
    {"trivial": True},
]


def images(n: int = 40) -> torch.Tensor:
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: next(iter(k)))
def test_each_change_changes_and_stays_in_range(kind: dict[str, float]) -> None:
    x = images()
    out = augment(x, AugmentConfig.model_validate({**OFF, **kind}), IDS, 0, 1)
    assert out.shape == x.shape
    assert out.min() >= 0
    assert out.max() <= 1
    assert (out != x).any(dim=3).any(dim=2).any(dim=1).float().mean() > 0.6
    assert torch.equal(x, images())  # the input is left alone


@pytest.mark.parametrize("kind", KINDS, ids=lambda k: next(iter(k)))
def test_an_image_is_treated_alike_in_any_batch(kind: dict[str, float]) -> None:
    config = AugmentConfig.model_validate({**OFF, **kind})
    x = images()
    whole = augment(x, config, IDS, 3, "epoch")
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))[:7]
    assert torch.allclose(augment(x[order], config, IDS[order], 3, "epoch"), whole[order], atol=1e-6)
    assert not torch.equal(augment(x, AugmentConfig(), IDS, 4, "epoch"), augment(x, AugmentConfig(), IDS, 3, "epoch"))


def test_cutout_blanks_one_square_inside_and_nothing_else() -> None:
    x = images(400) * 0.4  # no pixel is grey already
    out = augment(x, AugmentConfig.model_validate({**OFF, "cutout": 0.4}), torch.arange(400), 0)
    cut = (out == 0.5).all(dim=1)
    assert torch.equal(torch.where(cut[:, None], 0.5, x), out)
    for mask in cut:
        rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
        assert len(rows) == len(columns) == round(0.4 * 16)
        assert mask.sum() == len(rows) * len(columns)
    corners = torch.stack([mask.nonzero()[0] for mask in cut])
    for places in corners.unbind(1):
        assert set(places.tolist()) == set(range(16 - 6 + 1))  # any place, the edges too


def test_cutout_leaves_something_of_every_image() -> None:
    x = images()
    out = augment(x, AugmentConfig.model_validate({**OFF, "cutout": 0.99}), IDS, 0)
    assert (out == x).flatten(1).any(dim=1).all()


def test_no_change_is_the_identity() -> None:
    x = images()
    assert torch.equal(augment(x, AugmentConfig.model_validate(OFF), IDS, 0), x)


def test_flips_and_shifts_only_move_pixels() -> None:
    x = images()
    config = AugmentConfig(flip=0.5, vertical_flip=0.5, shift=0.2)
    out = augment(x, config, IDS, 0)
    for before, after in zip(x, out, strict=True):
        assert set(after.flatten().tolist()) <= set(before.flatten().tolist())


def test_a_shift_is_a_translation() -> None:
    ramp = torch.arange(16.0).div(16).expand(40, 3, 16, 16).contiguous()
    out = augment(ramp, AugmentConfig(flip=0, shift=0.25), IDS, 0)
    inner = (out[:, 0, 8, 5:11] - ramp[:, 0, 8, 5:11]) * 16
    assert torch.equal(inner, inner[:, :1].expand_as(inner))
    moved = set(inner[:, 0].tolist())
    assert moved <= set(range(-4, 5))
    assert len(moved) >= 7


def test_hue_keeps_luma() -> None:
    x = 0.3 + 0.4 * images()
    out = augment(x, AugmentConfig.model_validate({**OFF, "hue": 0.05}), IDS, 0)
    weights = torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)
    inside = ((out > 0) & (out < 1)).all(1)
    assert torch.allclose((out * weights).sum(1)[inside], (x * weights).sum(1)[inside], atol=1e-3)


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("_posterize", lambda x: reference.posterize((x * 255).round().to(torch.uint8), 4) / 255),
        ("_solarize", lambda x: reference.solarize(x, 1 / 3)),
        ("_autocontrast", reference.autocontrast),
        ("_equalize", lambda x: reference.equalize((x * 255).round().to(torch.uint8)) / 255),
        ("_brightness", lambda x: reference.adjust_brightness(x, 1.66)),
        ("_colour", lambda x: reference.adjust_saturation(x, 1.66)),
        ("_contrast", lambda x: reference.adjust_contrast(x, 1.66)),
    ],
)
def test_trivial_operations_equal_torchvisions(name: str, run: object) -> None:
    x = images(6)
    m, s = torch.full((6,), 2 / 3), torch.ones(6)
    ours = getattr(trivial, name)(x, m, s)
    assert torch.allclose(ours, run(x), atol=0.02)  # type: ignore[operator]


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.4, 0.0), (0.0, 1.0)])
def test_mixing_keeps_images_and_targets_in_proportion(mixup: float, cutmix: float) -> None:
    """With constant images of value 0 or 1, the mean of each mixed image is its share of class 1."""
    y = torch.arange(32) % 2
    x = y.float()[:, None, None, None].expand(32, 3, 16, 16).contiguous()
    target = torch.nn.functional.one_hot(y, 2).float()
    seen = set()
    for seed in range(8):
        mixed, soft = mix(x, target, mixup, cutmix, torch.Generator().manual_seed(seed))
        assert torch.allclose(mixed.mean((1, 2, 3)), soft[:, 1], atol=1e-5)
        seen.add(round(float(soft[:, 1].max()), 4))
        seen.update(soft[:, 1].mul(1000).round().tolist())
    assert len(seen) > 4
    unchanged, same = mix(x, target, 0, 0, torch.Generator())
    assert unchanged is x
    assert same is target
