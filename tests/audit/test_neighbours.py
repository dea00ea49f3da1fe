from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from robustbench_df.audit.alignment import FLIPS, look_alike
from robustbench_df.audit.copies import find_copies
from robustbench_df.audit.hashing import VIEWS, flip_mask, thumbnails, view_hashes
from robustbench_df.audit.neighbours import CROWD, RADIUS, _arranged, _Buckets, bands, candidates, confirm
from robustbench_df.data.imageset import ImageSet, Pixels, image_set_from_arrays
from tests.audit.photos import NEAR, changed, photos

PICTURES = 240


def _set(*blocks: Pixels) -> ImageSet:
    data = np.concatenate(blocks)
    return image_set_from_arrays(data, np.arange(len(data)) % 2)


def _random_hashes(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, n, dtype=np.uint64)


def _flip_bits(hashes: np.ndarray, bits: int) -> np.ndarray:
    rng = np.random.default_rng(9)
    masks = [sum(1 << int(k) for k in rng.choice(64, bits, replace=False)) for _ in hashes]
    return hashes ^ np.array(masks, dtype=np.uint64)


# --- pictures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", NEAR)
def test_at_least_95_percent_of_each_kind_of_near_copy_are_found_and_nothing_else(kind: str) -> None:
    x = photos()[:PICTURES]
    copies = find_copies(_set(x, changed(x, NEAR[kind])))
    found = set(copies.first[copies.second == copies.first + len(x)].tolist())
    assert len(found) >= 0.95 * len(x)
    strangers = copies.pairs()[copies.second % len(x) != copies.first % len(x)]
    assert len(np.unique(strangers % len(x))) <= 0.005 * len(x)


@pytest.mark.parametrize("kind", ["jpeg", "padded_crop", "resized_crop", "rotation", "training"])
def test_larger_pictures_are_recognised_by_the_same_thresholds(kind: str) -> None:
    x = photos(160)
    copies = find_copies(_set(x, changed(x, NEAR[kind])))
    pairs = copies.pairs()
    assert (pairs[:, 1] == pairs[:, 0] + len(x)).sum() >= 0.95 * len(x)
    assert (pairs[:, 1] % len(x) == pairs[:, 0] % len(x)).all()


def test_all_exact_copies_are_found() -> None:
    x = photos()[:100]
    copies = find_copies(_set(x, x[::-1]))
    assert copies.exact.all()
    assert set(zip(copies.first.tolist(), copies.second.tolist(), strict=True)) == {(k, 199 - k) for k in range(100)}


def test_pictures_without_copies_raise_nothing() -> None:
    copies = find_copies(_set(photos()))
    assert not len(copies.first)
    assert not copies.plain


def test_mirrored_copies_say_so() -> None:
    x = photos()[:50]
    copies = find_copies(_set(x, x[:, :, :, ::-1]))
    assert copies.mirrored.all()
    assert not find_copies(_set(x, changed(x, NEAR["jpeg"]))).mirrored.any()


def test_two_sets_of_different_sizes_are_compared_in_both_directions() -> None:
    small = photos()[:80]
    large = changed(small[20:], NEAR["brightness"]).repeat(3, axis=2).repeat(3, axis=3)
    copies = find_copies(_set(small), _set(large))
    assert (copies.first == copies.second + 20).all()
    assert len(copies.first) >= 0.95 * 60
    back = find_copies(_set(large), _set(small))
    assert {(b, a) for a, b in back.pairs().tolist()} == {tuple(pair) for pair in copies.pairs().tolist()}


def test_a_near_copy_of_a_picture_is_one_of_all_its_exact_copies() -> None:
    x = photos()[:30]
    copies = find_copies(_set(x, x, x[:, :, :, ::-1]))
    assert {tuple(pair) for pair in copies.pairs()[~copies.exact].tolist()} == {
        (first, k + 60) for k in range(30) for first in (k, k + 30)
    }
    families = copies.families()
    assert (families[:30] == families[30:60]).all()
    assert len(np.unique(families)) == 30


def test_a_crowd_of_identical_images_stays_cheap_and_in_one_family() -> None:
    n = 5 * CROWD
    copies = find_copies(_set(photos()[:1].repeat(n, axis=0)))
    assert len(copies.first) < CROWD**2
    assert len(np.unique(copies.families())) == 1


def test_plain_pictures_are_counted_and_only_exact_copies_of_them_found() -> None:
    grey = np.arange(60, 66, dtype=np.uint8)[:, None, None, None] * np.ones((1, 3, 32, 32), np.uint8)
    copies = find_copies(_set(grey, grey[:1]))
    assert copies.plain == 7
    assert copies.pairs().tolist() == [[0, 6]]


@pytest.mark.parametrize("n", [0, 1, 2])
def test_hardly_any_images(n: int) -> None:
    images = _set(photos()[:n])
    assert len(find_copies(images).first) == 0
    assert len(find_copies(images, _set(photos()[10:30])).first) == 0


# --- candidates -----------------------------------------------------------------------------------


def test_candidates_are_within_the_radius_of_the_view_and_flip_they_name() -> None:
    thumbs = thumbnails(photos())
    hashes = view_hashes(thumbs)
    found = candidates(hashes, hashes[0], same=True)
    assert len(found.first)
    assert (found.first != found.second).all()
    assert found.distance.max() <= RADIUS
    assert set(found.flip.tolist()) <= set(range(len(FLIPS)))
    plain = found.flip == 0
    actual = np.bitwise_count(hashes[found.view, found.first] ^ hashes[0][found.second])
    assert (actual[plain] == found.distance[plain]).all()


@pytest.mark.parametrize(("bits", "least"), [(0, 1.0), (2, 0.999), (4, 0.97), (6, 0.87)])
def test_near_hashes_are_found(bits: int, least: float) -> None:
    index = _random_hashes(20_000)
    found = candidates(_flip_bits(index, bits)[None], index)
    hit = found.first == found.second
    assert hit.sum() >= least * len(index)
    assert (found.distance[hit] == bits).all()


def test_a_pair_is_named_once_for_each_flip_with_its_nearest_view() -> None:
    index = _random_hashes(500)
    queries = np.stack([_flip_bits(index, 3), _flip_bits(index, 1), _flip_bits(index, 2)])
    found = candidates(queries, index)
    assert len(np.unique(found.first * 4 + found.flip)) == len(found.first)
    assert (found.view == 1).mean() > 0.99


def test_a_crowded_bucket_links_its_images_without_comparing_all() -> None:
    hashes = _random_hashes(1).repeat(1000)
    found = candidates(hashes[None], hashes, same=True)
    assert len(found.first) <= 1000 * CROWD
    links = coo_matrix((np.ones(len(found.first)), (found.first, found.second)), shape=(1000, 1000))
    assert connected_components(links)[0] == 1


def test_arranged_queries_that_lie_side_by_side_end_in_a_part_of_every_table() -> None:
    """It keeps the look-ups in a core's cache, whatever the number of images."""
    queries = _random_hashes(2 << 16).reshape(2, -1)
    arranged = _arranged(queries)
    assert (np.take_along_axis(queries, arranged.image.astype(np.intp), axis=1) == arranged.hashes).all()

    def places(hashes: np.ndarray) -> int:
        tables = [_Buckets(queries[0], mask) for mask in bands(1 << 16)[:4]]
        return sum(len(np.unique(t.number(hashes[:, :1024]) >> 6)) for t in tables)

    assert places(arranged.hashes) < 0.5 * places(queries)


def test_exactly_the_pairs_of_equal_chosen_bits_within_the_radius_are_found() -> None:
    """Held against comparing all with all: nothing that shares a bucket is lost on the way through the tables."""
    n = 600
    index, mask = _random_hashes(n), bands(0)[0]
    queries = _flip_bits(index, 5)
    negated = np.array([flip_mask(*flip) for flip in FLIPS])
    queries[::3] ^= negated[1]
    view, row, place, flip, distance = _Buckets(index, mask).near(queries[None], negated, RADIUS)
    apart = queries[:, None, None] ^ negated[:, None] ^ index
    expected = np.argwhere(((apart & mask) == 0) & (np.bitwise_count(apart) <= RADIUS))
    assert {*zip(row.tolist(), flip.tolist(), place.tolist(), strict=True)} == {*map(tuple, expected.tolist())}
    assert len(row) == len(expected) > n / 10
    assert not view.any()
    assert (distance == np.bitwise_count(apart[row, flip, place])).all()


@pytest.mark.parametrize("n", [1 << 10, 1 << 14, 1 << 18])
def test_the_images_compared_with_each_do_not_grow_with_their_number(n: int) -> None:
    masks = bands(n)
    buckets = _Buckets(_random_hashes(n), masks[0])
    row = buckets.near(_random_hashes(n, 1)[None], np.zeros(1, np.uint64), 64)[1]
    assert len(row) < 0.27 * n  # 2^-2 in each of the bands,
    assert len(masks) <= 1.5 * (math.log2(n) + 2)  # of which there are O(log N): O(N log N) in all


# --- the pixel check ------------------------------------------------------------------------------


def test_the_check_refuses_pictures_that_only_share_a_hash() -> None:
    x = thumbnails(photos()[:100])
    zeros = np.zeros(len(x), np.intp)
    alike, score = look_alike(x, np.roll(x, 1, axis=0), zeros, zeros)
    assert not alike.any()
    assert score.max() < 0.9
    alike, score = look_alike(x, x, zeros, zeros)
    assert alike.all()
    assert score.min() > 0.999


def test_the_check_aligns_what_no_view_meets() -> None:
    x = photos()[:100]
    turned = thumbnails(changed(x, lambda image, _: image.rotate(3.0, translate=(1, 0))))
    alike, _ = look_alike(thumbnails(x), turned, np.zeros(100, np.intp), np.zeros(100, np.intp))
    assert alike.mean() > 0.97


def test_confirm_gives_one_verdict_per_candidate_in_order() -> None:
    thumbs = thumbnails(np.concatenate([photos()[:40], photos()[:40, :, :, ::-1]]))
    hashes = view_hashes(thumbs)
    found = candidates(hashes, hashes[0], same=True)
    alike, score = confirm(thumbs, thumbs, found)
    assert len(alike) == len(score) == len(found.first)
    assert (alike == (np.abs(found.first - found.second) == 40) & (found.flip == 1)).all()
    assert len(VIEWS) > found.view.max()
