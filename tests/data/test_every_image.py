"""What is to be predicted is read so that no image is left out; labels that are clear stay."""

from __future__ import annotations

import re

import pytest

from robustbench_df.data.sources import load_images
from robustbench_df.errors import DataError
from tests.data.test_layouts import preds

SUBMISSION = b"id,label\n1,0\n"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("names", "beside", "layout", "why"),
    [
        (("original/a1.png", "holiday/b2.png"), {}, "unlabelled", "folders leaves out 1 of 2 images; --layout folders"),
        (("generated/1.png", "2.png"), {}, "unlabelled", "folders leaves out 1 of 2"),
        (("1.png", "2.png"), {"sample_submission.csv": SUBMISSION}, "unlabelled", "no column 'path'"),
        (("real/1.png", "2.png"), {"manifest.csv": SUBMISSION}, "unlabelled", "no column 'path'"),
        (("real/1.png", "fake/1.png", "test/1.png"), {"my_preds.json": preds((1, "real"))}, "folders", "'my_images'"),
        (("real/1.png", "fake/1.png"), {"manifest.csv": b"path\nreal/1.png"}, "folders", "manifest leaves out 1 of 2"),
        (("a/1.png", "a/2.png", "3.png"), {"mine.csv": b"path\na/1.png"}, "unlabelled", "manifest leaves out 2 of 3"),
        (("fake/real/1.png", "2.png"), {}, "unlabelled", "says fake by 'fake' but real by 'real'"),
        (("real_or_fake/1.png", "real/2.png"), {}, "unlabelled", "'real_or_fake' in .* names both classes"),
    ],
)
def test_a_prediction_leaves_no_image_out(folder, archive, make_png, packed, names, beside, layout, why):
    source = (archive if packed else folder)({name: make_png(k) for k, name in enumerate(names)} | beside)
    images = load_images(source, require_classes=False, every_image=True)
    assert (images.layout, set(images.ids)) == (layout, set(names))
    assert set(images.labels) == ({-1} if layout == "unlabelled" else {-1, 0, 1} if len(names) == 3 else {0, 1})
    (found,) = (f for f in images.findings if f.kind != "not-an-image")
    assert (found.kind, found.where) == (f"read-as-{layout}", str(source))
    assert re.search(why, found.detail)


def test_where_labels_are_clear_or_a_layout_is_named_a_prediction_reads_the_same(folder, pair, make_png):
    clear = folder(pair | {"test/1.png": make_png(9), "real_preds.json": preds((1, "real"), (10, "real"))})
    images = load_images(clear, every_image=True)
    assert (images.layout, images.findings, sorted(images.labels)) == ("challenge", (), [-1, 0, 0, 1, 1])
    mixed = folder(pair | {"cats/1.png": make_png(8)}, "mixed")
    assert len(load_images(mixed, layout="folders", every_image=True)) == 4
    assert len(load_images(mixed)) == 4  # nor does anything else but a prediction


def test_a_manifest_of_some_of_a_folders_images_leaves_none_out(folder, make_png):
    files = {f"{k}.png": make_png(k) for k in range(3)}
    root = folder(files | {"manifest.csv": b"path\n0.png\ngone.png"})
    images = load_images(root, every_image=True, require_classes=False)
    assert list(images.ids) == sorted(files)
    assert [found.kind for found in images.findings] == ["read-as-unlabelled", "not-an-image"]
    paths = "\n".join(["path", *(str(root / name) for name in files)])
    (root / "manifest.csv").write_text(paths)
    images = load_images(root, every_image=True, require_classes=False)
    assert (len(images), images.layout, images.findings) == (3, "manifest", ())


def test_a_manifest_of_images_elsewhere_is_no_folder_of_those_beside_it(folder, pair, make_png):
    root = folder({"list/figure.png": make_png(9), "list/manifest.csv": b"path\n../real/1.png\n../fake/1.png"} | pair)
    images = load_images(root / "list", every_image=True, require_classes=False)
    assert list(images.ids) == ["../fake/1.png", "../real/1.png"]
    (found,) = images.findings
    assert (found.kind, found.detail) == (
        "not-listed",
        "1 image here is not listed; --layout unlabelled reads the folder without it",
    )


@pytest.mark.parametrize(
    "table", [b"path,label\nreal/1.png,1\nfake/1.png,0", b"path,set\nreal/1.png,test\nfake/1.png,train"]
)
@pytest.mark.parametrize("named", [True, False])
def test_what_a_manifest_says_of_labels_and_parts_does_not_keep_its_images_from_being_predicted(
    folder, make_png, table, named
):
    root = folder({"real/1.png": make_png(1), "fake/1.png": make_png(2), "manifest.csv": table})
    source = root / "manifest.csv" if named else root
    with pytest.raises(DataError, match=r"contradict|holds parts"):
        load_images(source, require_classes=False)
    images = load_images(source, require_classes=False, every_image=True)
    assert (images.layout, len(images)) == ("manifest", 2)
    assert {found.kind for found in images.findings} <= {"unused-column"}


@pytest.mark.parametrize(
    ("folders", "file", "raw", "says", "layout"),
    [
        (("cats", "dogs"), "sample_submission.csv", SUBMISSION, "add one", "unlabelled"),
        (("real", "fake"), "manifest.csv", SUBMISSION, "add one", "folders"),
        (("real", "fake"), "my_preds.json", preds((1, "real")), "'my_images' beside it; add or rename it", "folders"),
        (("real", "fake"), "real_preds.json", b"{}", "it must be a list of index and prediction", "folders"),
    ],
)
def test_a_file_that_cannot_be_used_names_the_layout_that_does_without_it(
    folder, make_png, folders, file, raw, says, layout
):
    root = folder({f"{name}/1.png": make_png(k) for k, name in enumerate(folders)} | {file: raw})
    with pytest.raises(DataError, match=f"{says}, or use --layout {layout}$") as caught:
        load_images(root)
    assert "\n" not in str(caught.value)
    images = load_images(root, layout=layout)
    assert (images.layout, len(images)) == (layout, 2)
