"""Which images are chosen, from answers written by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustbench_df.explaining import specimens
from robustbench_df.explaining.pictures import LARGEST, drop_unnamed, keep_picture, keys_in, overlay
from robustbench_df.explaining.subjects import Clean, choose


def answers(p: list[list[float]], labels: list[int]) -> Clean:
    """Two detectors and the ensemble as they are given, threshold .5."""
    p_fake = np.array(p)
    return Clean(
        "base",
        ("a", "b", "ensemble"),
        ids=np.array([f"{k}.png" for k in range(len(labels))]),
        labels=np.array(labels, np.int8),
        fold=np.full(len(labels), -1, np.int16),
        p_fake=p_fake,
        verdict=(p_fake >= 0.5).astype(np.int8),
    )


def test_the_hardest_are_described_with_the_ensemble_which_has_no_say_in_what_is_hard() -> None:
    clean = answers([[0.9, 0.9, 0.1, 0.6, 0.2], [0.1, 0.8, 0.4, 0.6, 0.9], [0.5, 0.85, 0.9, 0.6, 0.5]], [0, 0, 0, 0, 1])
    rows = specimens.telling(clean, 8)["hardest"]
    assert rows.tolist() == [1, 3, 0, 4]  # 2 is wrong by the ensemble alone
    entries = specimens.described(clean, rows, ["k"] * 4)
    assert entries[0]["wrong_by"] == ["a", "b", "ensemble"]
    assert entries[3]["wrong_by"] == ["a"]
    assert entries[3]["p_fake"] == {"a": 0.2, "b": 0.9, "ensemble": 0.5}
    few = {kind: own.tolist() for kind, own in specimens.telling(clean, 1).items()}
    assert (few["hardest"], few["disagreed"], len(few["examples"])) == ([1], [0], 1)


def test_attacked_are_images_that_all_get_right_and_fewer_of_them_for_many_detectors() -> None:
    p = [[0.1, 0.9, 0.9, 0.2, 0.9, 0.1], [0.1, 0.9, 0.1, 0.2, 0.9, 0.1], [0.1, 0.9, 0.6, 0.2, 0.9, 0.1]]
    clean = answers(p, [0, 1, 1, 0, 1, 0])
    rows = specimens.attacked_rows(clean, 3, 4)
    assert 2 not in rows
    assert sorted(clean.labels[rows]) == [0, 0, 1, 1]
    assert len(specimens.attacked_rows(clean, 7, 4)) == 2
    assert len(specimens.attacked_rows(clean, 100, 4)) == 1
    assert len(specimens.attacked_rows(clean, 3, 0)) == 0
    none_right = answers([[0.9, 0.1]] * 3, [0, 1])
    assert len(specimens.attacked_rows(none_right, 3, 4)) == 2


def test_a_quarter_of_each_state_and_the_same_images_with_and_without_damage() -> None:
    rng = np.random.default_rng(0)
    labels = (np.arange(100) % 2).tolist()
    p = np.where(rng.random(100) < 0.8, np.array(labels), 1 - np.array(labels)) * 0.8 + 0.1
    clean = answers([p.tolist()] * 3, labels)
    chosen = choose(clean, 16)
    by_state = {state: [s.row for s in chosen if s.state == state] for state in ("right", "wrong", "attacked")}
    assert {state: len(rows) for state, rows in by_state.items()} == {"right": 4, "wrong": 4, "attacked": 4}
    assert clean.right[-1][by_state["right"]].all()
    assert not clean.right[-1][by_state["wrong"]].any()
    assert by_state["attacked"] == by_state["right"] == [s.row for s in chosen if s.state == "corrupted"]
    assert clean.labels[by_state["wrong"]].sum() == 2
    assert [s.state for s in choose(clean, 3)] == ["right"] * 3
    perfect = answers([[float(label) for label in labels]] * 3, labels)
    assert {s.state for s in choose(perfect, 8)} == {"right", "attacked", "corrupted"}


def test_equal_pictures_are_kept_once_under_a_name_that_says_nothing(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)
    key = keep_picture(tmp_path, pixels)
    stamp = (tmp_path / f"{key}.png").stat().st_mtime_ns
    assert keep_picture(tmp_path, pixels.copy()) == key
    assert (tmp_path / f"{key}.png").stat().st_mtime_ns == stamp
    with Image.open(tmp_path / f"{key}.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), pixels.transpose(1, 2, 0))
    assert keep_picture(tmp_path, 255 - pixels) != key
    large = keep_picture(tmp_path, np.zeros((3, 300, 200), np.uint8))
    with Image.open(tmp_path / f"{large}.png") as picture:
        assert max(picture.size) == LARGEST
    named = {"images": [{"picture": key, "maps": [{"picture": large}]}]}
    assert set(keys_in(named)) == {key, large}
    drop_unnamed(tmp_path, named)
    assert {path.stem for path in tmp_path.glob("*.png")} == {key, large}


def test_heat_is_the_only_colour_of_an_overlay() -> None:
    pixels = np.zeros((3, 8, 8), np.uint8)
    pixels[0] = 200
    cam = np.zeros((8, 8), np.float32)
    plain = overlay(pixels, cam)
    assert (plain == plain[:1]).all()
    assert plain[0, 0, 0] == pytest.approx(0.299 * 200, abs=1)
    cam[2, 2] = 1
    hot = overlay(pixels, cam)
    assert (hot != plain).any(0).sum() == 1
    assert hot[0, 2, 2] > hot[2, 2, 2]  # inferno's end is yellow
