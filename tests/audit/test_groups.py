from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robustbench_df.audit.finding import AuditFinding
from robustbench_df.audit.groups import group_findings, grouping
from robustbench_df.data.demo import demo_set
from robustbench_df.data.imageset import ImageSet, image_set_from_arrays
from robustbench_df.data.sources import load_images


def _set(ids: Sequence[str], labels: Sequence[int] | None = None, **columns: Sequence[str]) -> ImageSet:
    data = np.zeros((len(ids), 3, 2, 2), np.uint8)
    return image_set_from_arrays(data, labels or [k % 2 for k in range(len(ids))], ids=ids, **columns)


def _found(images: ImageSet, parts: np.ndarray | None = None) -> dict[str, AuditFinding]:
    return {finding.id: finding for finding in group_findings(images, parts)}


def _videos(videos: int = 40, frames: int = 5) -> list[str]:
    return [f"{'real' if v % 2 else 'fake'}/id{v}_id{v + 1}_{f:04d}.png" for v in range(videos) for f in range(frames)]


def _cifake(n: int, marks: Sequence[int] = tuple(range(1, 11))) -> list[str]:
    return [f"REAL/{k:04d}{f' ({m})' if m > 1 else ''}.jpg" for k in range(n) for m in marks]


@pytest.mark.parametrize(
    "names",
    [
        [f"real/{k:04d}.png" for k in range(100)],
        [f"real/img_{k}.png" for k in range(100)],
        [f"fake/DSC-{k:05d}.jpg" for k in range(100)],
        [f"real/{k * 7919:x}a.png" for k in range(100)],
        [f"real/{k:04d}.png" for k in range(98)] + ["real/1 (2).png", "real/2 (2).png"],
        [],
    ],
)
def test_plain_names_group_nothing(names: list[str]) -> None:
    assert grouping(_set(names)) is None
    found = _found(_set(names))
    assert found["groups-in-names"].severity == "pass"
    assert found["groups-declared"].severity == "not run"


def test_cifakes_marks_are_classes() -> None:
    found = grouping(_set(_cifake(30)))
    assert found is not None
    assert (found.kind, found.count) == ("class", 10)
    assert found.values[:3].tolist() == ["1", "2", "3"]


def test_classes_may_cross_parts() -> None:
    names = _cifake(40)
    images = _set(names, [k // 10 % 2 for k in range(400)], given=["train"] * 200 + ["test"] * 200)
    finding = _found(images)["groups-in-names"]
    assert finding.severity == "pass"
    assert (finding.figures["kind"], finding.figures["groups"], finding.figures["largest"]) == ("class", 10, 40)


def test_a_class_with_one_label_or_in_one_part_is_told() -> None:
    names = _cifake(40)
    labels = [1 if k % 10 == 3 else k // 10 % 2 for k in range(400)]
    given = ["test" if k % 10 == 7 else ("train" if k < 200 else "test") for k in range(400)]
    finding = _found(_set(names, labels, given=given))["groups-in-names"]
    assert finding.severity == "warn"
    assert (finding.figures["of_one_label"], finding.figures["of_one_part"]) == (1, 1)
    assert set(finding.images) == {"REAL/0000 (4).jpg", "REAL/0000 (8).jpg"}


def test_few_beginnings_are_classes_and_many_are_groups() -> None:
    few = grouping(_set([f"real/{animal}_{k:03d}.png" for animal in ("cat", "dog", "frog") for k in range(20)]))
    assert few is not None
    assert (few.kind, few.count) == ("class", 3)
    many = grouping(_set(_videos()))
    assert many is not None
    assert (many.kind, many.count) == ("name", 40)
    assert many.values[0] == "id0_id1"


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("real/000_003_frame12.png", "000_003"),
        ("fake/astronaut-012-003.png", "astronaut-012"),
        ("fake/clip7.f0012.jpg", "clip7"),
        ("real/alice (3) 07.png", "alice (3)"),
        ("real/person12_3.png", "person12"),
        ("real/wolf_12.png", "wolf"),
    ],
)
def test_what_precedes_the_last_number_is_the_group(name: str, group: str) -> None:
    others = [f"real/other{k}_{f}.png" for k in range(40) for f in range(3)]
    found = grouping(_set([name, *others]))
    assert found is not None
    assert found.values[0] == group


def test_a_folder_per_video_is_a_group() -> None:
    names = [f"real/video{v:03d}/{f:04d}.png" for v in range(50) for f in range(4)]
    images = _set(names, sources=[f"video{v:03d}" for v in range(50) for _ in range(4)])
    found = grouping(images)
    assert found is not None
    assert (found.kind, found.count) == ("folder", 50)


def _folders(names: Sequence[str], labels: Sequence[int], frames: int = 4) -> ImageSet:
    ids = [
        f"{('real', 'fake')[y]}/{name}/{f:04d}.png"
        for name, y in zip(names, labels, strict=True)
        for f in range(frames)
    ]
    return _set(ids, np.repeat(labels, frames).tolist(), sources=np.repeat(names, frames).tolist())


@pytest.mark.parametrize("pattern", ["youtube/c23/frames/{v:03d}", "{v:03d}_{w:03d}", "id{v}_id{w}_0001", "video_{v}"])
def test_a_few_numbered_folders_of_one_label_each_are_videos(pattern: str) -> None:
    images = _folders([pattern.format(v=v, w=v + 3) for v in range(12)], [v % 2 for v in range(12)])
    found = grouping(images)
    assert found is not None
    assert (found.kind, found.count) == ("folder", 12)
    finding = _found(images)["groups-in-names"]
    assert (finding.severity, finding.figures["undeclared_groups"]) == ("warn", 12)
    assert "--group-by folder" in finding.remedy


def test_generators_and_numbered_classes_are_no_videos() -> None:
    generators = _folders(["camera", "ffhq", "sd14", "sd15", "biggan"], [0, 0, 1, 1, 1])
    classes = _folders([str(k) for k in range(10)] * 2, [0] * 10 + [1] * 10)
    assert grouping(generators) is None
    assert grouping(classes) is None


def test_folders_that_are_declared_are_not_told_even_where_real_and_fake_have_the_same_number() -> None:
    names = [f"{v:03d}" for v in range(40)] * 2
    images = _folders(names, [0] * 40 + [1] * 40)
    assert _found(images)["groups-in-names"].severity == "warn"
    declared = replace(images, groups=np.array([name.rpartition("/")[0] for name in images.ids], dtype=object))
    assert {finding.severity for finding in _found(declared).values()} == {"pass"}


def test_videos_that_cross_the_split_are_told() -> None:
    names = _videos()
    whole = ["train" if k // 5 < 30 else "test" for k in range(200)]
    groups = [name.rsplit("_", 1)[0] for name in names]
    found = _found(_set(names, given=whole, groups=groups))
    assert {finding.severity for finding in found.values()} == {"pass"}
    cut = ["test" if k % 5 == 4 else "train" for k in range(200)]
    found = _found(_set(names, given=cut, groups=groups))
    assert found["groups-declared"].severity == "fail"
    assert found["groups-declared"].figures["divided_groups"] == 40
    assert found["groups-in-names"].severity == "warn"
    assert found["groups-in-names"].figures["divided_images"] == 200


def test_groups_that_are_not_declared_are_told_since_our_own_split_would_divide_them() -> None:
    finding = _found(_set(_videos()))["groups-in-names"]
    assert finding.severity == "warn"
    assert (finding.figures["divided_groups"], finding.figures["undeclared_groups"]) == (0, 40)
    assert len(finding.images) == 40  # one of each


def test_a_split_of_ones_own_can_be_judged() -> None:
    names = _videos()
    images = _set(names, groups=[name.rsplit("_", 1)[0] for name in names])
    parts = np.array(["train" if k % 2 else "val" for k in range(200)], dtype=object)
    assert _found(images)["groups-declared"].severity == "pass"
    assert _found(images, parts)["groups-declared"].severity == "fail"
    parts[:] = [("train" if k % 2 else "") for k in range(200)]
    assert _found(images, parts)["groups-declared"].severity == "pass"


def test_the_demo_sets_tiles_are_declared() -> None:
    found = _found(demo_set(count=400))
    assert {finding.severity for finding in found.values()} == {"pass"}
    assert found["groups-in-names"].figures["groups"] == found["groups-declared"].figures["groups"]


def test_cifake_has_ten_classes_in_both_parts_under_both_labels(real_data: Path) -> None:
    finding = _found(load_images(real_data / "cifake-12k.zip"))["groups-in-names"]
    assert (finding.severity, finding.figures["kind"], finding.figures["groups"]) == ("pass", "class", 10)
