"""Chains: what is read, what is refused, and that a chain is its steps one after the other."""

from __future__ import annotations

import re

import pytest
import torch

from robustbench_df.corruptions import pixels
from robustbench_df.corruptions.blur import gaussian
from robustbench_df.corruptions.chain import Chain, Step, apply_chain, parse_chain
from robustbench_df.corruptions.codecs import jpeg, webp
from robustbench_df.corruptions.suite import corrupt
from robustbench_df.errors import UsageError
from tests.corruptions.helpers import floats, psnr

EVERY_STEP = (
    "jpeg:60",
    "webp:50",
    "resize:0.6",
    "resize:0.6:nearest",
    "resize:1.5:bicubic",
    "crop:0.7",
    "blur:1.2",
    "noise:0.05",
    "grey",
    "gamma:1.8",
    "posterise:4",
    "sharpen:1",
    "gaussian_noise:3",
    "fog:2",
)


def apply(x, text, **options):
    return apply_chain(x, parse_chain(text), **options)


def test_reads_steps_in_order():
    assert parse_chain("resize:0.7:bicubic | jpeg:75|grey|fog:3") == Chain(
        (Step("resize", 0.7, "bicubic"), Step("jpeg", 75), Step("grey"), Step("fog", 3))
    )


def test_one_chain_has_one_name_however_written():
    names = {parse_chain(text).name for text in ("resize:0.7|jpeg:75", " resize:.70:bilinear|jpeg : 75.0 ")}
    assert names == {"resize-0.7+jpeg-75"}
    texts = ("resize:0.7|jpeg:75", "jpeg:75|resize:0.7", "resize:0.7:nearest|jpeg:75", "resize:0.71|jpeg:75")
    assert len({parse_chain(text).name for text in texts}) == len(texts)


@pytest.mark.parametrize("text", EVERY_STEP)
def test_names_suit_files_and_texts_read_back(text):
    chain = parse_chain(f"{text}|{text}")
    assert re.fullmatch(r"[A-Za-z0-9.+_-]+", chain.name)
    assert parse_chain(chain.text) == chain


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty step"),
        ("jpeg:75||grey", "empty step"),
        ("jpeg:75|", "empty step"),
        ("jpg:75", "unknown step 'jpg' .*did you mean 'jpeg'.*choose from"),
        ("gausian_noise:3", "did you mean 'gaussian_noise'"),
        ("jpeg", "'jpeg' needs one value, as in jpeg:"),
        ("jpeg:75:80", "needs one value"),
        ("jpeg:0", "a whole number from 1 to 100, not '0'"),
        ("jpeg:75.5", "a whole number from 1 to 100, not '75.5'"),
        ("jpeg:high", "not 'high'"),
        ("jpeg:nan", "not 'nan'"),
        ("jpeg:", "not ''"),
        ("resize", "needs a scale"),
        ("resize:0.7:bicubic:3", "needs a scale"),
        ("resize:0", "from 0.05 to 4, not '0'"),
        ("resize:inf", "not 'inf'"),
        ("resize:0.7:bicubik", "unknown kernel 'bicubik'.*did you mean 'bicubic'"),
        ("crop:1.2", "from 0.1 to 1"),
        ("posterise:1", "from 2 to 256"),
        ("grey:0.5", "grey takes no value"),
        ("fog:6", "a whole number from 1 to 5, not '6'"),
        ("fog", "needs one value, as in fog:3"),
        ("jpeg:75\n|bl ur:1", "unknown step"),
    ],
)
def test_bad_chains_are_refused_in_one_line(text, words):
    with pytest.raises(UsageError, match=words) as caught:
        parse_chain(text)
    assert "\n" not in str(caught.value)


def test_each_step_does_what_it_says():
    x = floats(3, 33, 47)
    back = (33, 47)
    assert torch.equal(apply(x, "jpeg:60"), jpeg(x, 60))
    assert torch.equal(apply(x, "webp:50"), webp(x, 50))
    assert torch.equal(apply(x, "resize:0.6:bicubic"), pixels.resize(pixels.resize(x, (20, 28), "bicubic"), back))
    assert torch.equal(apply(x, "blur:1.2"), gaussian(x, 1.2).clamp(0, 1))
    assert torch.allclose(apply(x, "gamma:1.8"), x**1.8, atol=1e-6)
    assert torch.equal(apply(x, "posterise:4"), pixels.posterise(x, 4))
    assert torch.equal(apply(x, "sharpen:1"), pixels.sharpen(x, 1))
    assert torch.equal(apply(x, "grey"), pixels.grey(x).clamp(0, 1))
    assert psnr(x, apply(x, "noise:0.05")) == pytest.approx(26, abs=0.5)  # 20 log10 of 1 / .05


def test_a_chain_is_its_steps_one_by_one():
    x = floats(4, 32, 32)
    steps = ("noise:0.05", "jpeg:60", "gamma:1.5", "fog:2", "blur:0.8", "gaussian_noise:1")
    out = x
    for step in steps:
        out = apply(out, step, seed=3)
    assert torch.equal(apply(x, "|".join(steps), seed=3), out)
    assert not torch.equal(apply(x, "|".join(reversed(steps)), seed=3), out)


def test_steps_after_a_resize_see_the_small_picture():
    x = floats(3, 40, 60)
    small = jpeg(pixels.resize(x, (28, 42)), 75)
    assert torch.equal(apply(x, "resize:0.7|jpeg:75"), pixels.resize(small, (40, 60)))
    assert not torch.equal(apply(x, "resize:0.7|jpeg:75"), apply(apply(x, "resize:0.7"), "jpeg:75"))


@pytest.mark.parametrize("name", ["gaussian_noise", "snow"])
def test_a_registered_corruption_is_the_one_that_corrupt_gives(name):
    x, ids = floats(3, 32, 32), torch.tensor([4, 9, 2])
    assert torch.equal(apply(x, f"{name}:3", ids=ids, seed=5), corrupt(x, name, 3, ids=ids, seed=5))


def test_a_repeated_step_meets_fresh_noise():
    x = torch.full((1, 3, 32, 32), 0.5)
    once, twice = apply(x, "noise:0.05") - 0.5, apply(x, "noise:0.05|noise:0.05") - 0.5
    assert torch.corrcoef(torch.stack((once.flatten(), (twice - once).flatten())))[0, 1].abs() < 0.1
    assert twice.std() == pytest.approx(0.05 * 2**0.5, rel=0.05)


@pytest.mark.parametrize("text", [*EVERY_STEP, "|".join(EVERY_STEP)])
def test_any_size_any_batch_any_order(text):
    x, ids = floats(5, 33, 47), torch.tensor([5, 900, 2**40, 7, 1])
    together = apply(x, text, ids=ids, seed=1)
    assert together.shape == x.shape
    assert together.isfinite().all()
    assert 0 <= together.min() <= together.max() <= 1
    assert not torch.equal(together, x)
    order = torch.tensor([4, 2, 0, 3, 1])
    assert torch.equal(apply(x[order], text, ids=ids[order], seed=1), together[order])
    assert torch.equal(apply(x[3:4], text, ids=ids[3:4], seed=1), together[3:4])


@pytest.mark.parametrize("text", ["noise:0.1", "crop:0.6", "fog:3"])
def test_seed_and_image_key_the_noise(text):
    x = floats(1, 32, 32).expand(2, -1, -1, -1).contiguous()
    out = apply(x, text, seed=1)
    assert not torch.equal(out[0], out[1])
    assert not torch.equal(apply(x, text, seed=2), out)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.float16])
def test_what_comes_in_comes_out(dtype):
    exact = floats(2, 33, 47)
    x = (exact * 255).round().to(dtype) if dtype == torch.uint8 else exact.to(dtype)
    out = apply(x, "noise:0.05|resize:0.7|jpeg:75")
    assert out.dtype == dtype
    reference = apply(exact, "noise:0.05|resize:0.7|jpeg:75")
    shown = out.float() / 255 if dtype == torch.uint8 else out.float()
    assert (shown - reference).abs().mean() < 0.01


def test_wrong_images_and_constants_are_refused():
    chain = parse_chain("jpeg:75")
    with pytest.raises(UsageError, match="takes uint8 or float"):
        apply_chain(torch.zeros(3, 32, 32), chain)
    with pytest.raises(UsageError, match="unknown constants"):
        apply_chain(torch.zeros(1, 3, 32, 32), chain, constants="cifer")


def test_no_images_are_no_images():
    chain = parse_chain("resize:0.5|fog:3|motion_blur:2|jpeg:60|crop:0.5")
    assert apply_chain(torch.empty(0, 3, 32, 32), chain).shape == (0, 3, 32, 32)
    with pytest.raises(UsageError, match="one per image"):
        apply_chain(floats(2, 32, 32), chain, ids=torch.arange(3))
