"""Web corruptions: severities that hurt more and more, keyed by image, and each doing what its name says."""

from __future__ import annotations

import pytest
import torch

from robustbench_df.corruptions import pixels
from robustbench_df.corruptions.codecs import jpeg
from robustbench_df.corruptions.core import SEVERITIES, Draw
from robustbench_df.corruptions.web import WEB, _stickers
from tests.corruptions.helpers import floats, psnr


def draw(ids, setting=0):
    return Draw(torch.arange(ids) if isinstance(ids, int) else ids, (7, "test", repr(setting)))


EACH = pytest.mark.parametrize("name", WEB)


def run(name, x, severity, ids=None):
    setting = WEB[name].settings["cifar"][severity - 1]
    return WEB[name].apply(x, setting, draw(len(x) if ids is None else ids, setting)).clamp(0, 1)


@EACH
def test_alone_in_a_batch_and_in_another_order(name):
    x, ids = floats(6, 33, 47), torch.tensor([5, 900, 2**40, 7, 1, 33])
    together = run(name, x, 4, ids)
    order = torch.tensor([4, 2, 0, 5, 3, 1])
    assert torch.equal(run(name, x[order], 4, ids[order]), together[order])
    assert torch.equal(run(name, x[2:3], 4, ids[2:3]), together[2:3])


@EACH
@pytest.mark.parametrize("size", [(32, 32), (96, 96)])
def test_each_severity_is_farther_from_the_image(name, size):
    x = floats(48, *size)
    distances = [psnr(x * 255, run(name, x, severity) * 255) for severity in SEVERITIES]
    assert distances == sorted(distances, reverse=True), distances
    assert distances[0] - distances[-1] > 2


@EACH
def test_five_settings_in_both_sets_and_random_said_rightly(name):
    corruption = WEB[name]
    assert corruption.group == "web"
    assert [len(corruption.settings[key]) for key in ("cifar", "imagenet")] == [5, 5]
    x = floats(1, 32, 32).expand(12, -1, -1, -1).contiguous()
    keyed = len(torch.unique(run(name, x, 3), dim=0)) > 1
    assert keyed == corruption.random


@EACH
def test_does_not_write_into_its_input(name):
    x = floats(2, 32, 32)
    kept = x.clone()
    run(name, x, 5)
    assert torch.equal(x, kept)


def test_jpeg_is_jpeg_and_double_jpeg_is_twice():
    x = floats(3, 32, 32)
    assert torch.equal(run("jpeg_quality", x, 4), jpeg(x, 50))
    assert torch.equal(run("double_jpeg", x, 4), jpeg(jpeg(x, 75), 45))


def test_grey_at_worst_has_no_colour_but_the_same_luma():
    x = floats(3, 32, 32)
    out = run("grey", x, 5)
    assert torch.allclose(out[:, 0], out[:, 1], atol=1e-6)
    assert torch.allclose(out[:, 0], out[:, 2], atol=1e-6)
    assert torch.allclose(pixels.luma(out), pixels.luma(x), atol=1e-5)


def test_posterise_leaves_eight_colours_at_worst():
    out = run("posterise", draw(2).uniform((3, 64, 64)), 5)
    assert len(torch.unique(out.permute(0, 2, 3, 1).reshape(-1, 3), dim=0)) == 8


def test_gamma_darkens_and_keeps_black_and_white():
    x = torch.tensor([0.0, 0.25, 1.0]).expand(1, 3, 2, 3).contiguous()
    out = run("gamma", x, 4)
    assert torch.allclose(out[0, 0, 0], torch.tensor([0.0, 0.0625, 1.0]))


@pytest.mark.parametrize("kernel", pixels.KERNELS)
def test_resizing_loses_fine_detail_and_keeps_flat_areas(kernel):
    flat = torch.full((1, 3, 33, 47), 0.3)
    assert torch.allclose(run(f"resize_{kernel}", flat, 5), flat, atol=1e-5)
    board = (torch.arange(32)[:, None] + torch.arange(32)[None]).remainder(2).float().expand(1, 3, 32, 32)
    shrunk = run(f"resize_{kernel}", board, 4)
    assert shrunk.std() < 0.2 or kernel == "nearest"


def test_crop_takes_another_part_per_image_and_enlarges_it():
    ramp = torch.linspace(0, 1, 50).expand(64, 3, 50, 50)
    out = run("crop_resize", ramp, 5)
    span = out[..., -1] - out[..., 0]
    assert torch.allclose(span, torch.full_like(span, 29 / 49), atol=0.02)  # 60% of 50 columns
    starts = out[:, 0, 0, 0]
    assert starts.min() < 0.1
    assert starts.max() > 0.3


def test_social_media_uses_its_whole_range(monkeypatch):
    seen: list[tuple[tuple[int, ...], list[int]]] = []

    def spy(x, quality):
        seen.append((tuple(x.shape[2:]), quality.tolist()))
        return x

    monkeypatch.setattr("robustbench_df.corruptions.web.jpeg", spy)
    x = floats(1, 100, 100).expand(80, -1, -1, -1)
    for severity in SEVERITIES:
        run("social_media", x, severity)
    sides = [size[0] for size, _ in seen]
    qualities = [quality for _, each in seen for quality in each]
    assert (min(sides), max(sides)) == (50, 90)
    assert (min(qualities), max(qualities)) == (70, 85)
    assert len(qualities) == 5 * len(x)


def test_the_overlay_stays_inside_moves_and_leaves_the_rest_alone():
    x = torch.full((60, 3, 64, 80), 0.5)
    changed = (run("text_overlay", x, 5) != x).any(1)
    assert changed.any((1, 2)).all()
    assert changed.float().mean((1, 2)).max() < 0.5
    tops, lefts = changed.any(2).float().argmax(1), changed.any(1).float().argmax(1)
    assert tops.max() - tops.min() > 20
    assert lefts.max() - lefts.min() > 10
    # Every sticker lies whole inside the picture: each image shows as many inked pixels as one of the stickers has.
    bank, _ = _stickers(19)
    ink = {int((sticker[3] > 0).sum()) for sticker in bank}
    grey_ink = {int(((sticker[:3] != 0.5).any(0) & (sticker[3] > 0)).sum()) for sticker in bank}
    assert {int(count) for count in changed.sum((1, 2))} <= ink | grey_ink
    assert len({int(count) for count in changed.sum((1, 2))}) == len(bank)


def test_an_overlay_wider_than_the_picture_is_cut():
    out = run("text_overlay", floats(6, 9, 8), 5)
    assert out.shape == (6, 3, 9, 8)


@EACH
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 40)])
def test_no_picture_is_too_small(name, size):
    out = run(name, floats(2, *size), 5)
    assert out.shape == (2, 3, *size)
    assert out.isfinite().all()
