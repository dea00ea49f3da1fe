"""A split never lets parts share an image, a copy or a group; and it is stratified and repeatable."""

from __future__ import annotations

import re

import numpy as np
import pytest

from robustbench_df.audit.copies import find_copies
from robustbench_df.config import PRESETS, SplitConfig, load_config
from robustbench_df.data.imageset import SPLIT_NAMES, ImageSet, image_set_from_arrays
from robustbench_df.data.split import IN_FOLDS, Split, make_folds, make_refit, make_split
from robustbench_df.errors import DataError
from tests.audit.photos import photos


def random_set(n: int = 200, seed: int = 0, **extra: object) -> ImageSet:
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 256, (n, 3, 8, 8), dtype=np.uint8)
    return image_set_from_arrays(data, np.arange(n) % 2, **extra)  # type: ignore[arg-type]


def test_fractions_and_classes_are_exact_without_groups() -> None:
    split = make_split(random_set(200))
    assert split.counts() == {
        "train": {"real": 70, "fake": 70},
        "val": {"real": 10, "fake": 10},
        "cal": {"real": 10, "fake": 10},
        "test": {"real": 10, "fake": 10},
    }


def test_same_seed_same_split_and_other_seed_another() -> None:
    images = random_set()
    first, again = make_split(images), make_split(images)
    other = make_split(images, SplitConfig(seed=1))
    assert all((first.part(p) == again.part(p)).all() for p in SPLIT_NAMES)
    assert (first.test != other.test).any()


def test_twins_and_groups_stay_together() -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (300, 3, 8, 8), dtype=np.uint8)
    data[200:] = data[100:200]  # a hundred pixel-identical pairs
    groups = [f"tile{i // 5}" if i < 100 else "" for i in range(300)]
    images = image_set_from_arrays(data, np.arange(300) % 2, groups=groups)
    split = make_split(images)
    part_of = {int(i): part for part in SPLIT_NAMES for i in split.part(part)}
    assert len(part_of) == 300
    assert all(part_of[i] == part_of[i + 100] for i in range(100, 200))
    for start in range(0, 100, 5):
        assert len({part_of[i] for i in range(start, start + 5)}) == 1


def near_pairs(n: int = 100) -> np.ndarray:
    """Pictures, and a mirrored copy of each."""
    x = photos()[:n]
    return np.concatenate([x, x[:, :, :, ::-1]])


def test_near_copies_stay_together_unless_they_are_let_apart() -> None:
    images = image_set_from_arrays(near_pairs(), np.arange(200) // 2 % 2)

    def divided(split: Split) -> int:
        part_of = {int(i): part for part in SPLIT_NAMES for i in split.part(part)}
        return sum(part_of[k] != part_of[k + 100] for k in range(100))

    assert divided(make_split(images)) <= 2
    assert divided(make_split(images, SplitConfig(near_copies=False))) > 20
    for fold in make_folds(images, SplitConfig(), 4):
        assert divided(fold) <= 2
    copies = find_copies(images)
    assert (make_split(images, copies=copies).train == make_split(images).train).all()


def test_near_copies_of_a_given_test_part_leave_train() -> None:
    images = image_set_from_arrays(near_pairs(), np.arange(200) % 2, given=["train"] * 110 + ["test"] * 90)
    split = make_split(images)
    assert set(split.test) == set(range(110, 200))
    learnt = set(np.concatenate([split.train, split.val, split.cal]))
    assert learnt <= {*range(10), *range(100, 110)} | set(range(10, 100))
    assert len(learnt & set(range(10, 100))) <= 2
    assert {f.kind for f in split.findings} == {"twin-left-out"}


@pytest.mark.parametrize("what", ["id", "pixel hash", "group"])
def test_a_leaking_split_cannot_be_built(what: str) -> None:
    data = np.random.default_rng(0).integers(0, 256, (8, 3, 8, 8), dtype=np.uint8)
    groups = [""] * 8
    test = np.array([6, 7])
    if what == "pixel hash":
        data[6] = data[0]
    elif what == "group":
        groups[0] = groups[6] = "same"
    else:
        test = np.array([0, 7])
    images = image_set_from_arrays(data, [0, 1] * 4, groups=groups)
    with pytest.raises(DataError, match=what):
        Split(images, np.array([0, 1, 2, 3]), np.array([4, 5]), test=test)


def test_a_given_test_part_is_kept_whole_and_its_twins_leave_train() -> None:
    data = np.random.default_rng(0).integers(0, 256, (100, 3, 8, 8), dtype=np.uint8)
    data[0] = data[99]
    given = ["train"] * 80 + ["test"] * 20
    images = image_set_from_arrays(data, np.arange(100) % 2, given=given)
    split = make_split(images)
    assert set(split.test) == set(range(80, 100))
    everywhere = np.concatenate([split.train, split.val, split.cal])
    assert 0 not in everywhere
    assert len(everywhere) == 79
    assert [f.kind for f in split.findings] == ["twin-left-out"]


def test_folds_hold_every_image_out_once_and_choose_on_their_own_val() -> None:
    images = random_set(120)
    folds = make_folds(images, SplitConfig(), 4)
    held = np.concatenate([fold.cal for fold in folds])
    assert sorted(held) == list(range(120))
    for fold in folds:
        assert not set(fold.cal) & (set(fold.train) | set(fold.val))
        assert len(fold.val) > 0


def test_a_given_val_part_that_goes_into_the_folds_is_a_finding() -> None:
    given = ["train"] * 60 + ["val"] * 20 + ["test"] * 40
    images = random_set(120, given=given)
    folds = make_folds(images, SplitConfig(), 4)
    assert sorted(np.concatenate([fold.cal for fold in folds])) == list(range(80))
    for fold in folds:
        (found,) = fold.findings
        assert (found.kind, found.where) == (IN_FOLDS, "val")
        assert "the 20 images of the given val part" in found.detail
        assert "--folds 1" in found.detail
    alone = make_split(images)
    assert (sorted(alone.val), alone.findings) == (list(range(60, 80)), ())
    assert make_folds(random_set(120), SplitConfig(), 4)[0].findings == ()


def test_refit_uses_everything_but_test() -> None:
    split = make_split(random_set(200))
    refit = make_refit(split)
    assert len(refit.train) == 180
    assert set(refit.test) == set(split.test)


def test_unlabelled_images_take_no_part() -> None:
    data = np.random.default_rng(0).integers(0, 256, (120, 3, 8, 8), dtype=np.uint8)
    labels = np.array([0, 1, -1] * 40)
    split = make_split(image_set_from_arrays(data, labels))
    used = np.concatenate([split.part(p) for p in SPLIT_NAMES])
    assert sorted(used) == sorted(np.flatnonzero(labels >= 0))


def test_a_class_missing_from_a_part_is_one_clear_line() -> None:
    images = image_set_from_arrays(np.zeros((6, 3, 8, 8), np.uint8), [0, 1] * 3)
    with pytest.raises(DataError, match="has no"):
        make_split(images)  # six identical images are one component, so val stays empty


@pytest.mark.parametrize(
    ("real", "fake", "folds", "says"),
    [
        (9, 1, 1, "only 1 fake image in all; give more"),
        (20, 3, 1, "only 3 fake images in all; give more"),
        (8, 2, 2, "only 2 fake images in all; give more"),
        (3, 0, 1, "only 0 fake images in all; give more"),
    ],
)
def test_no_fractions_are_advised_where_a_class_has_fewer_images_than_parts(
    real: int, fake: int, folds: int, says: str
) -> None:
    images = image_set_from_arrays(random_set(real + fake).data, [0] * real + [1] * fake)
    with pytest.raises(DataError, match=rf"^the \w+ part has no fake .*; {says}$"):
        make_split(images) if folds == 1 else make_folds(images, SplitConfig(), folds)


def test_a_class_in_too_few_groups_is_told_as_such() -> None:
    images = random_set(60, groups=["" if k % 2 == 0 else f"video{k % 4}" for k in range(60)])
    told = (
        r"only 30 fake images in all, and what belongs together \(copies, groups, --group-by\) makes 2 groups of them"
    )
    with pytest.raises(DataError, match=told):
        make_split(images)


@pytest.mark.parametrize("folds", [1, 2])
def test_a_source_with_a_test_part_alone_says_how_to_have_the_parts_drawn(folds: int) -> None:
    images = random_set(40, given=["test"] * 40, origin="set")
    with pytest.raises(
        DataError, match=r"'set' .* elsewhere than in train \(40 in test\); .* path of that part's own fol"
    ):
        make_split(images) if folds == 1 else make_folds(images, SplitConfig(), folds)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("real", "together", "alone"), [(10, 3, 3), (40, 4, 3), (20, 6, 3)])
def test_fractions_that_are_advised_add_up_and_give_the_part_more(
    preset: str, real: int, together: int, alone: int
) -> None:
    labels, groups = [0] * real + [1] * (together + alone), [""] * real + ["video"] * together + [""] * alone
    images = image_set_from_arrays(random_set(len(labels)).data, labels, groups=groups)
    settings = load_config(preset).split
    with pytest.raises(DataError, match=r"^the \w+ part has no fake .*; give more images or other fr") as caught:
        make_folds(images, settings, 2)
    advice = re.findall(r"--set (\S+=[\d.]+)", str(caught.value))
    advised = load_config(preset, overrides=advice).split  # where they do not add up it refuses
    part = str(caught.value).split()[1]
    assert len(advice) == 2
    assert getattr(advised, part) > getattr(settings, part)


def test_fractions_are_not_blamed_for_parts_that_they_do_not_cut() -> None:
    given = image_set_from_arrays(random_set(60).data, [0, 1] * 20 + [0] * 20, given=["train"] * 40 + ["test"] * 20)
    with pytest.raises(DataError, match=r"^the test part has no fake image .*; give more images$"):
        make_split(given)
    few = image_set_from_arrays(random_set(40).data, [0] * 37 + [1] * 3)
    with pytest.raises(DataError, match=r"^the cal part has no fake image .* or fewer folds \(--folds\)$"):
        make_folds(few, SplitConfig(), 5)
