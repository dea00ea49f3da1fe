"""What gives the class away without the picture is found; where nothing does, nothing is claimed."""

from __future__ import annotations

import os
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from robustbench_df.audit.finding import AuditFinding
from robustbench_df.audit.shortcuts import judge_statistic, shortcuts
from robustbench_df.audit.statistics import file_statistics, jpeg_quality, pixel_statistics
from robustbench_df.data.demo import demo_set
from robustbench_df.data.imageset import ImageSet, image_set_from_arrays
from robustbench_df.data.sources import load_images
from robustbench_df.errors import DataError

N, SIDE = 400, 24


def smooth(n: int = N, seed: int = 0, side: int = SIDE) -> np.ndarray[Any, Any]:
    """Soft random pictures, uint8 ``[n, side, side, 3]``: nothing in them depends on anything."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(128, 50, (n, side // 4, side // 4, 3))
    fine = coarse.repeat(4, axis=1).repeat(4, axis=2) + rng.normal(0, 8, (n, side, side, 3))
    return np.asarray(fine.clip(0, 255), np.uint8)


def write(folder: Path, save: dict[str, dict[str, Any]], n: int = N) -> ImageSet:
    """Write pictures under real/ and fake/, each class saved with its own options (``format`` among them)."""
    for k, pixels in enumerate(smooth(n)):
        kind = "fake" if k % 2 else "real"
        options = dict(save[kind])
        path = folder / kind / f"{k}.{options['format'].lower()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, **options)
    return load_images(folder)


def by_id(findings: tuple[AuditFinding, ...]) -> dict[str, AuditFinding]:
    return {finding.id.removeprefix("shortcuts-"): finding for finding in findings}


PNG, JPEG = {"format": "PNG"}, {"format": "JPEG", "quality": 90}


def exif() -> bytes:
    tags = Image.Exif()
    tags[0x0131] = "a camera"
    return tags.tobytes()


def test_one_class_jpeg_and_one_png_fails(tmp_path: Path) -> None:
    found = by_id(shortcuts(write(tmp_path, {"real": JPEG, "fake": PNG})))
    files = found["files"]
    assert files.severity == "fail"
    assert all(files.figures[name] == 1 for name in ("format", "jpeg_quality", "jpeg_tables", "metadata"))
    assert files.figures["exif"] == 0.5
    assert files.images[0][0].startswith("real/")
    assert files.images[0][1].startswith("fake/")
    assert found["classifier"].severity == "fail"
    assert found["classifier"].figures["accuracy"] == 1


@pytest.mark.parametrize(
    ("fake", "tells"),
    [
        ({"format": "JPEG", "quality": 75}, "jpeg_quality"),
        ({"format": "JPEG", "quality": 90, "subsampling": 0}, "jpeg_chroma"),
    ],
    ids=["quality", "chroma"],
)
def test_other_traces_of_the_file(tmp_path: Path, fake: dict[str, Any], tells: str) -> None:
    found = by_id(shortcuts(write(tmp_path, {"real": JPEG, "fake": fake}), classifier=False))
    assert found["files"].severity == "fail"
    assert found["files"].figures[tells] == 1
    assert found["files"].figures["format"] == 0.5
    assert "classifier" not in found


def test_metadata_warns_since_no_detector_of_pixels_sees_it(tmp_path: Path) -> None:
    found = by_id(shortcuts(write(tmp_path, {"real": JPEG, "fake": {**JPEG, "exif": exif()}}), classifier=False))
    assert found["files"].severity == "warn"
    assert found["files"].figures["exif"] == 1
    mixed = by_id(shortcuts(write(tmp_path / "mixed", {"real": {**JPEG, "exif": exif()}, "fake": PNG})))
    assert mixed["files"].severity == "fail"
    assert mixed["files"].figures["worst"] not in ("exif", "metadata")


def test_a_name_that_no_text_can_hold_is_read_all_the_same(tmp_path: Path) -> None:
    write(tmp_path, {"real": PNG, "fake": PNG}, 80)
    (tmp_path / "real" / "0.png").rename(tmp_path / "real" / os.fsdecode(b"caf\xe9.png"))
    assert by_id(shortcuts(load_images(tmp_path), classifier=False))["files"].severity == "pass"


def test_a_clean_set_passes(tmp_path: Path) -> None:
    for save in (JPEG, PNG):
        found = by_id(shortcuts(write(tmp_path / str(save["format"]), {"real": save, "fake": save})))
        assert {f.severity for f in found.values()} == {"pass"}, found
        assert found["files"].figures["n"] == pytest.approx(N / 2, abs=40)


def test_the_demo_set_fails_nothing() -> None:
    found = by_id(shortcuts(demo_set()))
    assert "fail" not in {f.severity for f in found.values()}, found
    assert found["files"].severity == "not run"
    assert "made in memory" in found["files"].detail
    assert 0.5 < float(found["classifier"].figures["auc"]) < 0.98


@pytest.mark.parametrize("sign", [1, -1])
def test_brightness_alone_is_found_whichever_way_it_goes(sign: int) -> None:
    labels = np.arange(N) % 2
    x = smooth().transpose(0, 3, 1, 2) * 0.5 + 60
    data = (x + sign * 30 * (2 * labels[:, None, None, None] - 1)).clip(0, 255).astype(np.uint8)
    found = by_id(shortcuts(image_set_from_arrays(data, labels)))
    assert found["pixels"].severity == "fail"
    assert found["pixels"].figures["worst"] == "brightness"
    assert float(found["pixels"].figures["brightness"]) > 0.95


def test_frames_blocks_and_blur_are_seen() -> None:
    labels = np.arange(N) % 2
    x = smooth().transpose(0, 3, 1, 2).copy()
    fakes = np.flatnonzero(labels)
    framed = x.copy()
    framed[fakes, :, 0], framed[fakes, :, :, 0] = 0, 0
    blurred = x.astype(np.float32)
    blurred[fakes, :, :, 1:] = (blurred[fakes, :, :, 1:] + blurred[fakes, :, :, :-1]) / 2
    gridded = np.random.default_rng(1).normal(110, 20, x.shape)
    gridded[fakes, :, :, 8:16] += 25
    for data, tells in ((framed, "border_step"), (blurred, "high_frequency"), (gridded, "blockiness")):
        images = image_set_from_arrays(data.clip(0, 255).astype(np.uint8), labels)
        columns = pixel_statistics(images, np.arange(N))
        fitted = np.arange(N) < N // 2
        assert judge_statistic(columns[tells], images.labels, fitted).auc.value > 0.9, tells


def test_words_that_never_repeat_say_nothing_on_held_out_images() -> None:
    """Fitted and judged on the same images, a unique word would give the class away perfectly."""
    labels = np.arange(N, dtype=np.int8) % 2
    words = np.array([f"word {k}" for k in range(N)], dtype=object)
    assert judge_statistic(words, labels, np.arange(N) < N // 2).auc.value == 0.5


def test_twins_do_not_carry_a_word_across_the_halves() -> None:
    """Each picture is there four times with a dimension of its own: without keeping twins together it would tell."""
    once = smooth(60).transpose(0, 3, 1, 2)
    images = image_set_from_arrays(once.repeat(4, axis=0), (np.arange(60) % 2).repeat(4))
    found = by_id(shortcuts(images))
    assert float(found["classifier"].figures["auc_low"]) < 0.7


@pytest.mark.parametrize("quality", [25, 50, 60, 75, 85, 90, 95])
def test_jpeg_quality_is_read_from_the_table(quality: int) -> None:
    raw = BytesIO()
    Image.fromarray(smooth(1)[0]).save(raw, "JPEG", quality=quality)
    with Image.open(raw) as image:
        assert jpeg_quality(image.quantization[0]) == pytest.approx(quality, abs=1)


def test_files_are_read_from_an_archive_alike(tmp_path: Path) -> None:
    images = write(tmp_path / "set", {"real": JPEG, "fake": {**JPEG, "exif": exif()}}, 40)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name in images.ids:
            archive.write(tmp_path / "set" / name, f"wrapped/{name}")
    packed = load_images(tmp_path / "set.zip")
    ours, theirs = (file_statistics(i, np.arange(40)) for i in (images, packed))
    assert set(ours["format"]) == {"JPEG"}
    assert (ours["width"] == SIDE).all()
    assert (ours["exif"] == images.labels).all()
    assert ours["file_size"][0] == (tmp_path / "set" / images.ids[0]).stat().st_size
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_files_of_a_manifest_are_read_whatever_its_labels_stand_for(tmp_path: Path) -> None:
    images = write(tmp_path / "set", {"real": JPEG, "fake": {**JPEG, "exif": exif()}}, 80)
    rows = [f"{name},{1 - label}" for name, label in zip(images.ids, images.labels, strict=True)]
    (tmp_path / "set" / "m.csv").write_text("\n".join(["path,label", *rows]), "utf-8")
    listed = load_images(tmp_path / "set" / "m.csv", fake_is=0)
    assert (listed.labels == images.labels).all()
    assert by_id(shortcuts(listed, classifier=False))["files"].severity == "warn"  # by exif


def test_files_that_are_gone_are_no_pass(tmp_path: Path) -> None:
    images = write(tmp_path / "set", {"real": PNG, "fake": PNG}, 80)
    (tmp_path / "set" / images.ids[3]).unlink()
    found = by_id(shortcuts(images, classifier=False))
    assert found["files"].severity == "not run"
    assert "changed since" in found["files"].detail
    assert found["pixels"].severity == "pass"
    with pytest.raises(DataError, match="made in memory"):
        file_statistics(replace(images, layout=""), np.arange(2))


def test_too_few_images_or_one_class_are_not_run() -> None:
    images = image_set_from_arrays(smooth(30).transpose(0, 3, 1, 2), np.arange(30) % 2)
    assert {f.severity for f in shortcuts(images)} == {"not run"}
    one = image_set_from_arrays(smooth(60).transpose(0, 3, 1, 2), np.ones(60))
    assert {f.severity for f in shortcuts(one)} == {"not run"}
