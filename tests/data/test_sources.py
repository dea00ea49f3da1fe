from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustbench_df.data.imageset import fingerprint_of, image_set_from_arrays
from robustbench_df.data.sources import image_sizes, load_images
from robustbench_df.errors import DataError, UsageError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def real_data():
    """Path of one of the real archives, or a skip that says what is missing."""

    def find(name: str) -> Path:
        path = Path(os.environ.get("RDF_DATA") or ROOT.parent / "shared" / "data") / name
        if not path.is_file():
            pytest.skip(f"no {path}; set RDF_DATA to the folder that holds it")
        return path

    return find


def one_line(error) -> str:
    text = str(error.value)
    assert text
    assert "\n" not in text
    return text


def test_a_set_from_disk_equals_the_same_set_in_memory(folder, pair):
    images = load_images(folder(pair))
    again = image_set_from_arrays(np.array(images.data), images.labels, ids=list(images.ids))
    assert again.fingerprint == images.fingerprint == fingerprint_of(images.ids, images.labels, images.hashes)
    assert images.labels.dtype == np.int8
    assert images.origin.endswith("set")


def test_mixed_sizes_need_size(folder, pair, make_png):
    root = folder(pair | {"real/11.png": make_png(9, (20, 10))})
    with pytest.raises(DataError) as error:
        load_images(root)
    assert all(part in one_line(error) for part in ("8×8", "20×10", "'real/11.png'", "--size 8"))
    assert load_images(root, size=4).data.shape == (5, 3, 4, 4)


def test_bad_images_are_findings_until_there_are_too_many(folder, make_png):
    files = {f"{c}/{k}.png": make_png(k) for c in ("real", "fake") for k in range(20)}
    bad = {"real/3.png": files["real/3.png"][:90], "fake/4.png": b""}
    images = load_images(folder(files | bad))
    assert len(images) == 38
    assert [(f.kind, f.where) for f in images.findings] == [("unreadable", "fake/4.png"), ("unreadable", "real/3.png")]
    assert images.findings[0].detail == "the file is empty"
    with pytest.raises(DataError) as error:
        load_images(folder(files | bad, "again"), max_bad=0.04)
    message = one_line(error)
    assert all(
        part in message for part in ("2 of 40", "5.0%", "4.0%", "'fake/4.png'", "the file is empty", "--max-bad")
    )


def test_an_empty_source_is_not_the_current_folder(folder, pair, monkeypatch):
    monkeypatch.chdir(folder(pair))
    for look in (load_images, image_sizes):
        with pytest.raises(UsageError, match=r"the source is empty.*; name a folder"):
            look("")
        look(".")


def test_an_empty_class_folder_beside_a_full_one_is_a_finding(folder, pair):
    root = folder({f"train/{name}": raw for name, raw in pair.items()} | {"test/real/notes.txt": b""})
    assert ("empty-folder", "test/real") in [(f.kind, f.where) for f in load_images(root).findings]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "sett", "no such file or folder: .*did you mean 'set'"),
        (lambda p: p / "set" / "notes.txt", "no folder, zip archive, manifest"),
        (lambda p: p / "set", r"no images in .*1 other file ignored: 1 \.txt"),
        (lambda p: p / "void", "no images in"),
        (lambda p: p / "broken.zip", "damaged or incomplete"),
    ],
)
def test_sources_that_cannot_be_used_are_one_line(folder, tmp_path, make, message):
    folder({"notes.txt": b"hello"})
    (tmp_path / "void").mkdir()
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and then the connection broke")
    with pytest.raises(DataError, match=message) as error:
        load_images(make(tmp_path))
    one_line(error)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"layout": "folder"}, "unknown layout 'folder'.*did you mean 'folders'"),
        ({"labels": "prediction"}, "did you mean 'predictions'"),
        ({"fake_is": 2}, "fake_is is 2; it must be 0 or 1"),
        ({"size": 0}, "size is 0"),
        ({"max_bad": 5}, "share between 0 and 1"),
        ({"workers": 0}, "at least 1"),
    ],
)
def test_options_out_of_range(folder, pair, option, message):
    with pytest.raises(UsageError, match=message):
        load_images(folder(pair), **option)


def test_predictions_as_labels_need_predictions(folder, pair):
    with pytest.raises(DataError, match="has no predictions to use as labels"):
        load_images(folder(pair), labels="predictions")


def test_names_with_odd_characters(folder, pair, make_png):
    odd = ["real/new\nline.png", 'real/"quotes".png', "real/it's %s {}.png", "real/\udcff\udcfe.png", "real/日本.PNG"]
    images = load_images(folder(pair | {name: make_png(k) for k, name in enumerate(odd)}))
    spelt_out = [name.replace("\udcff\udcfe", r"\udcff\udcfe") for name in odd]  # bytes that are no UTF-8
    assert set(spelt_out) < set(images.ids)
    assert all(name.encode("utf-8") for name in images.ids)
    assert load_images(folder(pair | {name: make_png(k) for k, name in enumerate(odd)})).fingerprint


def test_formats_are_what_the_bytes_say_not_the_ending(folder, pair, tmp_path):
    root = folder(pair)
    Image.new("RGB", (8, 8)).save(root / "real" / "5.png", "JPEG")
    assert load_images(root).formats == {"PNG": 4, "JPEG": 1}


def test_nothing_given_is_the_demo(monkeypatch):
    fake = types.ModuleType("demo")
    fake.demo_set = lambda seed, size: ("demo", seed, size)
    monkeypatch.setitem(sys.modules, "robustbench_df.data.demo", fake)
    assert load_images() == ("demo", 0, 32)
    assert load_images("demo", seed=3, size=64) == ("demo", 3, 64)


def test_loading_never_imports_torch_or_pandas(folder, pair):
    code = (
        "import sys; from robustbench_df.data.sources import load_images; "
        f"load_images({str(folder(pair))!r}); print(sorted({{'torch', 'pandas', 'scipy'}} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.real
def test_the_public_challenge(real_data):
    images = load_images(real_data("synergy25.zip"))
    assert (images.layout, images.data.shape, images.formats) == ("challenge", (2500, 3, 32, 32), {"PNG": 2500})
    assert images.findings == ()
    assert [int((images.labels == v).sum()) for v in (0, 1, -1)] == [1000, 1000, 500]
    test = [i for i in images.ids if i.startswith("test/")]
    assert test == [f"test/{k}.png" for k in range(1, 501)]
    first = list(images.ids).index("real_cifake_images/1.png")
    assert images.predictions[first : first + 3].tolist() == [0, 1, 0]


@pytest.mark.real
def test_cifake_splits(real_data):
    images = load_images(real_data("cifake-12k.zip"))
    counts = {(g, int(y)): 0 for g in ("train", "test") for y in (0, 1)}
    for given, label in zip(images.given, images.labels, strict=True):
        counts[given, int(label)] += 1
    assert counts == {("train", 0): 5000, ("train", 1): 5000, ("test", 0): 1000, ("test", 1): 1000}
    assert json.dumps(images.formats) == '{"JPEG": 12000}'
