"""What holds of every corruption: types and sizes, noise keyed by the image, and each severity worse than the last."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from robustbench_df.corruptions import library
from robustbench_df.corruptions.catalogue import CORRUPTIONS
from robustbench_df.corruptions.core import SEVERITIES
from robustbench_df.corruptions.suite import corrupt
from robustbench_df.errors import UsageError
from tests.corruptions.helpers import draw_for, floats, photos, psnr

ALL = tuple(CORRUPTIONS)
BENCHMARK = tuple(name for name in ALL if CORRUPTIONS[name].group != "web")
RANDOM = tuple(name for name in ALL if CORRUPTIONS[name].random)

_SMOOTHED = "more blur smooths the jumble of as many or fewer rounds"
_FADED = "as much ice over less of the image: the sum is nearer to it in brightness"
_TURNED = "severities 1 and 2 take colour away, 3 to 5 add it"
NOT_WORSE = {
    ("glass_blur", "cifar"): ({2, 3, 5}, _SMOOTHED),
    ("glass_blur", "imagenet"): ({2, 4}, _SMOOTHED),
    ("motion_blur", "cifar"): ({4}, "a longer line of the same deviation: the weights beyond the old end are nothing"),
    ("frost", "cifar"): ({4, 5}, _FADED),
    ("frost", "imagenet"): ({4}, _FADED),
    ("elastic_transform", "cifar"): ({2, 3, 4, 5}, "ever more ripple, but ever less stretching, which weighs more"),
    ("elastic_transform", "imagenet"): ({3}, "severities 1 and 2 stretch, 3 to 5 ripple and stretch a tenth of that"),
    ("spatter", "cifar"): ({4}, "severities 1 to 3 are water, 4 and 5 mud"),
    ("saturate", "cifar"): ({3}, _TURNED),
    ("saturate", "imagenet"): ({3}, _TURNED),
}
"""Severities whose published settings do not lower the mean PSNR below that of the severity before, and why."""


def test_the_benchmarks_nineteen_are_there_with_five_settings_for_both_sizes() -> None:
    assert len(BENCHMARK) == 19
    groups = [CORRUPTIONS[name].group for name in BENCHMARK]
    assert {group: groups.count(group) for group in groups} == {
        "noise": 3,
        "blur": 4,
        "weather": 3,
        "digital": 5,
        "extra": 4,
    }
    for name in ALL:
        settings = CORRUPTIONS[name].settings
        assert set(settings) == {"cifar", "imagenet"}
        assert all(len(five) == len(set(five)) == len(SEVERITIES) for five in settings.values())


@pytest.mark.parametrize("name", ALL)
def test_severity_0_is_the_image_itself(name: str) -> None:
    x = photos(2, 16, 16)
    out = corrupt(x, name, 0)
    assert torch.equal(out, x)
    assert out.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (224, 224)])
@pytest.mark.parametrize("constants", ["cifar", "imagenet"])
@pytest.mark.parametrize("name", ALL)
def test_what_goes_in_comes_out_changed_in_the_same_type_and_shape(
    name: str, constants: str, size: tuple[int, int]
) -> None:
    """Larger ones (1000×700) are run by experiments/bench_corruptions."""
    x, exact = photos(1, *size), floats(1, *size)
    before = x.clone()
    for severity in SEVERITIES:
        out = corrupt(x, name, severity, constants=constants)
        assert torch.equal(x, before)
        assert (out.dtype, out.shape) == (torch.uint8, x.shape)
        assert not torch.equal(out, x)
        if severity == 3:
            as_float = corrupt(exact, name, severity, constants=constants)
            assert (as_float.dtype, as_float.shape) == (torch.float32, x.shape)
            assert bool(((as_float >= 0) & (as_float <= 1)).all())  # false for NaN
            assert ((as_float * 255).round() - out).abs().max() <= 1


@pytest.mark.parametrize("name", ALL)
def test_an_image_meets_the_same_noise_alone_in_a_batch_and_in_another_order(name: str) -> None:
    x, ids = photos(5, 32, 32), torch.tensor([7, 3, 2**40, 0, 11])
    out = corrupt(x, name, 4, ids=ids, seed=1).float()
    order = torch.tensor([3, 0, 4, 2, 1])
    other = corrupt(x[order], name, 4, ids=ids[order], seed=1).float()
    alone = torch.cat([corrupt(x[i : i + 1], name, 4, ids=ids[i : i + 1], seed=1) for i in range(5)]).float()
    # Sums may be rounded in another order, which moves a value that lies just between two levels.
    for again in (other[order.argsort()], alone):
        assert (again - out).abs().max() <= 1
        assert (again != out).float().mean() < 1e-3


@pytest.mark.parametrize("name", RANDOM)
def test_noise_depends_on_seed_image_and_severity(name: str) -> None:
    x = photos(1, 32, 32).expand(2, -1, -1, -1)
    out = corrupt(x, name, 5, seed=1)
    assert not torch.equal(out[0], out[1])
    assert not torch.equal(out, corrupt(x, name, 5, seed=2))


@pytest.mark.parametrize("name", [name for name in ALL if name not in RANDOM])
def test_without_noise_the_seed_does_not_matter(name: str) -> None:
    x = photos(2, 32, 32)
    assert torch.equal(corrupt(x, name, 5, seed=1, ids=torch.tensor([1, 2])), corrupt(x, name, 5, seed=2))


@pytest.mark.parametrize(
    ("constants", "n", "side"), [("cifar", 60, 32), ("imagenet", 60, 32), ("cifar", 2, 224), ("imagenet", 6, 224)]
)
@pytest.mark.parametrize("name", BENCHMARK)
def test_each_severity_is_worse_than_the_last(name: str, constants: str, n: int, side: int) -> None:
    x, corruption = floats(n, side, side), CORRUPTIONS[name]
    same_noise = draw_for(x)  # at all severities: fewer images tell them apart
    lost = [psnr(x, corruption.apply(x, setting, same_noise).clamp(0, 1)) for setting in corruption.settings[constants]]
    excepted, _ = NOT_WORSE.get((name, constants), (set(), ""))
    for severity, (before, after) in enumerate(pairwise(lost), 2):
        assert after < before or severity in excepted, (severity, [round(value, 2) for value in lost])


@pytest.mark.parametrize("name", ALL)
def test_no_images_are_no_images(name: str) -> None:
    for dtype in (torch.uint8, torch.float32):
        out = corrupt(torch.empty(0, 3, 32, 32, dtype=dtype), name, 3)
        assert (out.dtype, out.shape) == (dtype, (0, 3, 32, 32))


def test_a_number_of_numpy_is_the_same_key() -> None:
    x = photos(2, 32, 32)
    mine = corrupt(x, "gaussian_noise", 3, seed=5)
    assert torch.equal(corrupt(x, "gaussian_noise", np.int64(3), seed=np.int64(5)), mine)
    assert torch.equal(corrupt(x, "gaussian_noise", 3, seed=5, ids=torch.arange(2, dtype=torch.int32)), mine)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"name": "fogg"}, "did you mean 'fog'"),
        ({"severity": 6}, "severity must be 0 to 5, not 6"),
        ({"severity": 2.5}, "severity must be 0 to 5, not 2.5"),
        ({"constants": "cifr"}, "did you mean 'cifar'"),
        ({"ids": torch.arange(3)}, r"ids must be int64 \[2\], one per image, not torch.int64 \(3,\)"),
        ({"ids": torch.rand(2)}, "ids must be int64"),
        ({"x": torch.zeros(2, 1, 32, 32)}, r"uint8 or float \[N, 3, H, W\]"),
        ({"x": torch.zeros(3, 32, 32)}, r"uint8 or float \[N, 3, H, W\]"),
        ({"x": torch.zeros(2, 3, 32, 32, dtype=torch.int64)}, "uint8 or float"),
    ],
)
def test_wrong_use_is_said_in_one_line(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        corrupt(**{"x": photos(2, 32, 32), "name": "fog", "severity": 1, **changed})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [name for name in ALL if CORRUPTIONS[name].codec])
def test_a_codec_takes_bytes_and_gives_what_it_gives_for_floats(name: str) -> None:
    x = photos(3, 33, 47)
    setting, draw = CORRUPTIONS[name].settings["cifar"][3], draw_for(x)
    by_floats = CORRUPTIONS[name].apply(x.float() / 255, setting, draw)
    by_bytes = CORRUPTIONS[name].apply(x, setting, draw)
    assert by_bytes.dtype == torch.uint8
    assert torch.equal(by_bytes, (by_floats * 255).round().to(torch.uint8))


def test_without_the_library_its_backend_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "mended_library", library.mended_library.__wrapped__)  # not the remembered answer
    monkeypatch.setitem(sys.modules, "imagecorruptions", None)
    with pytest.raises(UsageError, match="imagecorruptions is not installed; pip install imagecorruptions"):
        library.library_corrupt(photos(1, 32, 32), "fog", 1)


@pytest.mark.parametrize("name", BENCHMARK)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 40)])
def test_no_image_is_too_small(name: str, size: tuple[int, int]) -> None:
    x = floats(1, *size)
    for constants in ("cifar", "imagenet"):
        out = corrupt(x, name, 5, constants=constants)
        assert out.shape == x.shape
        assert bool(((out >= 0) & (out <= 1)).all())
