from __future__ import annotations

import io
import os
import subprocess
import sys
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from robustbench_df.data import demo
from robustbench_df.data.demo import demo_set, photo_tiles
from robustbench_df.data.generator import PatchGenerator, match_spectrum
from robustbench_df.data.imageset import ImageSet, Pixels
from robustbench_df.errors import DataError, UsageError


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return demo_set()


def file_size(image: Pixels, kind: str, quality: int = 0) -> int:
    target = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(target, format=kind, quality=quality)
    return target.tell()


def laplacian(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    inner = 4 * grey[:, 1:-1, 1:-1]
    return inner - grey[:, :-2, 1:-1] - grey[:, 2:, 1:-1] - grey[:, 1:-1, :-2] - grey[:, 1:-1, 2:]


def trivial_statistics(data: Pixels) -> dict[str, NDArray[np.float64]]:
    pixels = data.astype(np.float64)
    grey = pixels.mean(axis=1)
    high, low = pixels.max(axis=1), pixels.min(axis=1)
    frequency = np.abs(np.fft.fftfreq(data.shape[-1]))
    fast = np.hypot(frequency[:, None], frequency) > 0.25
    power = np.abs(np.fft.fft2(grey)) ** 2
    border = np.concatenate([grey[:, 0], grey[:, -1], grey[:, :, 0], grey[:, :, -1]], axis=1)
    steps = (grey[:, 0] - grey[:, 1], grey[:, -1] - grey[:, -2])
    statistics = {
        "brightness": grey.mean(axis=(1, 2)),
        "variance": grey.var(axis=(1, 2)),
        "laplacian energy": (laplacian(grey) ** 2).mean(axis=(1, 2)),
        "absolute laplacian": np.abs(laplacian(grey)).mean(axis=(1, 2)),
        "saturation": ((high - low) / np.maximum(high, 1)).mean(axis=(1, 2)),
        "clipped pixels": ((data == 0) | (data == 255)).mean(axis=(1, 2, 3)),
        "high frequencies": power[:, fast].sum(axis=1),
        "share of high frequencies": power[:, fast].sum(axis=1) / power.reshape(len(power), -1)[:, 1:].sum(axis=1),
        "border mean": border.mean(axis=1),
        "border variance": border.var(axis=1),
        "step at the border": sum(np.abs(step).mean(axis=1) for step in steps),
        "png size": np.array([file_size(image, "PNG") for image in data]),
        "jpeg size": np.array([file_size(image, "JPEG", 75) for image in data]),
        "fine jpeg size": np.array([file_size(image, "JPEG", 95) for image in data]),
    }
    for k, channel in enumerate("rgb"):
        statistics[f"mean {channel}"] = pixels[:, k].mean(axis=(1, 2))
        statistics[f"variance {channel}"] = pixels[:, k].var(axis=(1, 2))
    return statistics


def residual_features(data: Pixels) -> NDArray[np.float64]:
    """Per channel, the log power of the Laplacian residual at every frequency, and how heavy its tails are."""
    features = []
    for channel in data.astype(np.float64).transpose(1, 0, 2, 3):
        residual = laplacian(channel)
        power = np.abs(np.fft.rfft2(residual)) ** 2
        kurtosis = (residual**4).mean(axis=(1, 2)) / ((residual**2).mean(axis=(1, 2)) ** 2 + 1)
        blocks = np.abs(np.diff(channel, axis=2)).mean(axis=1), np.abs(np.diff(channel, axis=1)).mean(axis=2)
        features += [np.log(power + 1).reshape(len(data), -1), np.log(kurtosis + 1e-3)[:, None]]
        features += [np.log(block + 0.1) for block in blocks]
    return np.concatenate(features, axis=1)


def test_half_of_every_tile_is_fake(images: ImageSet) -> None:
    assert len(images) == 2400
    assert images.data.shape == (2400, 3, 32, 32)
    real = Counter(images.groups[images.labels == 0])
    assert sum(real.values()) == 1200
    assert real == Counter(images.groups[images.labels == 1])
    assert len(real) >= 100
    assert set(images.sources) == set(demo.PHOTOGRAPHS)
    assert set(images.given) == {""}


def test_names_say_class_and_tile_in_natural_order(images: ImageSet) -> None:
    assert list(images.ids) == sorted(images.ids)
    for name, label, group, source in zip(images.ids, images.labels, images.groups, images.sources, strict=True):
        assert name.startswith(f"{('real', 'fake')[label]}/{group}-")
        assert group.startswith(f"{source}-")


def test_no_two_pictures_are_the_same(images: ImageSet) -> None:
    assert len(set(images.hashes)) == len(images)


def test_same_seed_same_bytes_in_another_process_and_with_more_threads(images: ImageSet) -> None:
    code = "from robustbench_df.data.demo import demo_set; print(demo_set().fingerprint)"
    environment = os.environ | {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert out.stdout.strip() == images.fingerprint


def test_another_seed_shares_no_picture() -> None:
    first, second = (demo_set(seed=seed, count=60) for seed in (0, 1))
    assert not set(first.hashes) & set(second.hashes)


@pytest.mark.parametrize("size", [16, 64])
def test_other_sizes(size: int) -> None:
    images = demo_set(size=size, count=100)
    assert images.data.shape == (100, 3, size, size)


@pytest.mark.parametrize("size", [32, 64])
def test_tiles_do_not_overlap(size: int) -> None:
    for a, b in combinations(photo_tiles(size), 2):
        side = len(a.pixels)
        apart = abs(a.top - b.top) >= side or abs(a.left - b.left) >= side
        assert a.photo != b.photo or apart


def test_every_real_picture_lies_inside_the_tile_of_its_group() -> None:
    images = demo_set(seed=3, count=60)
    tiles = {tile.name: tile.pixels.astype(np.float64) for tile in photo_tiles(32)}
    for k in np.flatnonzero(images.labels == 0):
        tile, crop = tiles[images.groups[k]], images.data[k].transpose(1, 2, 0)
        half = (tile[:-1, :-1] + tile[1:, :-1] + tile[:-1, 1:] + tile[1:, 1:]) / 4
        assert contains(tile, crop, 1) or contains(half, crop, 2)


def contains(tile: NDArray[np.float64], crop: Pixels, factor: int) -> bool:
    side = factor * (len(crop) - 1) + 1
    tile = np.rint(tile)
    starts = np.argwhere((tile[: len(tile) - side + 1, : len(tile) - side + 1] == crop[0, 0]).all(axis=2))
    return any(np.array_equal(tile[y : y + side : factor, x : x + side : factor], crop) for y, x in starts)


def test_no_trivial_statistic_tells_real_from_fake(images: ImageSet) -> None:
    for name, value in trivial_statistics(images.data).items():
        auc = roc_auc_score(images.labels, value)
        assert max(auc, 1 - auc) < 0.72, f"{name}: AUROC {auc:.3f}"


def test_a_linear_probe_on_the_residual_spectrum_does(images: ImageSet) -> None:
    tiles = np.unique(images.groups)
    held_out = np.isin(images.groups, np.random.default_rng(0).permutation(tiles)[: len(tiles) // 4])
    features = residual_features(images.data)
    scaler = StandardScaler().fit(features[~held_out])
    probe = LogisticRegression(C=1e-3, max_iter=500).fit(
        scaler.transform(features[~held_out]), images.labels[~held_out]
    )
    score = probe.decision_function(scaler.transform(features[held_out]))
    assert 0.8 < roc_auc_score(images.labels[held_out], score) < 0.99


def test_content_of_a_fake_is_its_crops() -> None:
    images = demo_set(count=60)
    crops = images.data[images.labels == 0]
    fakes = PatchGenerator.fit(crops).generate(crops, np.random.default_rng(0))

    def thumbnails(data: Pixels) -> NDArray[np.float64]:
        means: NDArray[np.float64] = data.reshape(-1, 3, 4, 8, 4, 8).mean(axis=(3, 5))
        return means

    own = np.abs(thumbnails(fakes) - thumbnails(crops)).mean()
    others = np.abs(thumbnails(fakes) - np.roll(thumbnails(crops), 1, axis=0)).mean()
    assert own < others / 3
    assert (fakes != crops).mean() > 0.5


def test_matched_spectrum_has_the_variance_of_its_model() -> None:
    rng = np.random.default_rng(0)
    flat, like = rng.normal(size=(2, 3, 32, 32)), 50 + 20 * rng.normal(size=(2, 3, 32, 32)).cumsum(axis=3)
    matched = match_spectrum(flat + 5, like)
    np.testing.assert_allclose(matched.mean(axis=(2, 3)), like.mean(axis=(2, 3)))
    np.testing.assert_allclose(matched.var(axis=(2, 3)), like.var(axis=(2, 3)))


def test_a_missing_photograph_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(demo.PHOTOGRAPHS, "astronaut", ("skimage", "data/nowhere.png"))
    monkeypatch.setitem(demo.PHOTOGRAPHS, "flower", ("no_such_package", "flower.jpg"))
    assert not {"astronaut", "flower"} & set(demo_set(count=400).sources)


def test_no_photograph_at_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "PHOTOGRAPHS", {"rocket": ("no_such_package", "rocket.jpg")})
    with pytest.raises(DataError, match="reinstall scikit-image"):
        demo_set()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"size": 224}, "224"),
        ({"size": 8}, "8"),
        ({"size": 33}, "33"),
        ({"count": 7}, "7"),
        ({"count": 0}, "0"),
        ({"count": 10_000_000}, "10000000"),
        ({"seed": -1}, "-1"),
    ],
)
def test_arguments_out_of_range_are_named(options: dict[str, int], named: str) -> None:
    with pytest.raises(UsageError, match=rf" {named};"):
        demo_set(**options)
