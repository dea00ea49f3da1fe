from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustbench_df.audit import hashing
from robustbench_df.audit.hashing import BITS, GRID, VIEWS, View, contrast, flip_mask, thumbnails, view_hashes
from tests.audit.photos import brightness, changed, photos


def _hashed(data: np.ndarray) -> np.ndarray:
    return view_hashes(thumbnails(data), VIEWS[:1])[0]


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.bitwise_count(a ^ b)


def test_a_thumbnail_is_the_mean_of_each_area() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (2, 1, 96, 160)).astype(np.uint8)
    means = grey.reshape(2, GRID, 3, GRID, 5).mean(axis=(2, 4))
    assert np.abs(thumbnails(grey.repeat(3, axis=1)) - means).max() <= 0.51


def test_an_image_of_32_px_is_its_own_thumbnail_in_luma() -> None:
    x = photos()[:5]
    wanted = np.stack([np.asarray(Image.fromarray(p.transpose(1, 2, 0)).convert("L")) for p in x])
    assert np.abs(thumbnails(x).astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("shape", [(7, 5), (33, 47), (32, 32), (500, 333)])
def test_any_size_gives_the_same_kind_of_thumbnail(shape: tuple[int, int]) -> None:
    ramp = np.broadcast_to(np.linspace(0, 255, shape[1]), (1, 3, *shape)).astype(np.uint8)
    small = thumbnails(ramp)
    assert small.shape == (1, GRID, GRID)
    assert (np.diff(small[0, 0].astype(int)) >= 0).all()
    assert small[0, 0, 0] < 30
    assert small[0, 0, -1] > 225


def test_the_same_picture_at_512_px_and_at_32_px_has_the_same_hash() -> None:
    small = photos()[:50]
    assert (_distance(_hashed(small), _hashed(small.repeat(16, axis=2).repeat(16, axis=3))) == 0).all()


def test_flips_are_exact_without_touching_pixels() -> None:
    x = photos()[:60]
    hashes = _hashed(x)
    for horizontal, vertical in ((True, False), (False, True), (True, True)):
        y = x[:, :, :: -1 if vertical else 1, :: -1 if horizontal else 1]
        assert ((hashes ^ flip_mask(horizontal, vertical)) == _hashed(y)).all()
    assert (_distance(hashes, hashes ^ flip_mask(True, False)) >= 16).all()


def test_hashes_of_different_pictures_are_far_apart_and_those_of_brighter_ones_near() -> None:
    x = photos()[:200]
    hashes = _hashed(x)
    assert 28 < _distance(hashes[:, None], hashes[None])[~np.eye(len(x), dtype=bool)].mean() < 36
    assert np.percentile(_distance(hashes, _hashed(changed(x, brightness))), 90) <= 4


def test_half_of_the_bits_are_set_for_half_of_the_pictures() -> None:
    bits = np.unpackbits(_hashed(photos()).view(np.uint8).reshape(-1, 8), axis=1)
    assert bits.shape[1] == BITS
    assert 0.45 < bits.mean() < 0.55


def test_a_shifted_view_is_the_hash_of_the_shifted_picture() -> None:
    wide = np.random.default_rng(1).integers(0, 256, (20, 1, 40, 40)).astype(np.uint8).repeat(3, axis=1)
    here, there = wide[:, :, 4:36, 4:36], wide[:, :, 2:34, 7:39]
    shifted = view_hashes(thumbnails(here), [View(dx=3.0, dy=-2.0)])[0]
    assert np.mean(_distance(shifted, _hashed(there))) < 3  # not 0: white noise reaches beyond the orders it sees
    assert np.mean(_distance(_hashed(here), _hashed(there))) > 20


def test_views_begin_with_the_identity_and_are_symmetric() -> None:
    assert VIEWS[0] == View()
    views = {(round(v.dx, 3), round(v.dy, 3), v.angle, v.zoom) for v in VIEWS}
    assert {(-dx, dy, -angle, zoom) for dx, dy, angle, zoom in views} == views  # so mirrored views are views
    assert len(VIEWS) <= 128  # neighbours packs a view into 7 bits


def test_chunks_do_not_show_and_a_memory_map_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = photos()[:70]
    whole = thumbnails(x), view_hashes(thumbnails(x)), contrast(thumbnails(x))
    np.save(tmp_path / "x.npy", x)
    monkeypatch.setattr(hashing, "_CHUNK_BYTES", 1 << 17)
    small = thumbnails(np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert (small == whole[0]).all()
    assert (view_hashes(small) == whole[1]).all()
    assert (contrast(small) == whole[2]).all()


def test_contrast_tells_a_plain_picture() -> None:
    plain = np.full((1, 3, 32, 32), 90, np.uint8)
    assert contrast(thumbnails(plain))[0] == 0
    assert contrast(thumbnails(photos())).min() > 2
