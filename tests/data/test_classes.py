"""What is said where a class, all labels or all images are missing: the true reason, and a remedy that helps."""

from __future__ import annotations

import pytest

from robustbench_df.config import DataConfig
from robustbench_df.data import sources
from robustbench_df.data.imageset import Finding
from robustbench_df.data.sources import load_configured, load_images
from robustbench_df.data.stores import FolderStore
from robustbench_df.errors import DataError


def refusal(root, **options) -> str:
    with pytest.raises(DataError) as caught:
        load_images(root, **options)
    assert "\n" not in str(caught.value)
    assert "--layout unlabelled" not in str(caught.value)
    return str(caught.value)


def test_a_class_that_cannot_be_read_is_a_missing_class(folder, pair):
    with pytest.raises(DataError, match="'real' holds none that can be read"):
        load_images(folder(pair | {"real/1.png": b"", "real/10.png": b""}), max_bad=1.0)
    with pytest.raises(DataError, match="not one of the 4 images"):
        load_images(folder(dict.fromkeys(pair, b""), "none"), max_bad=1.0)
    with pytest.raises(DataError, match="none of the 4 images"):
        load_images(folder(dict.fromkeys(pair, b""), "none"), max_bad=1.0, size=8)


def test_one_class_or_an_empty_one(folder, make_png):
    only_real = {"real/1.png": make_png(1)}
    with pytest.raises(DataError, match=r"all 1 labelled images.*none is fake: add a folder 'fake'"):
        load_images(folder(only_real))
    root = folder(only_real, "empty")
    (root / "Fake").mkdir()
    with pytest.raises(DataError, match=r"none is fake: 'Fake' is empty; put fake images into it$"):
        load_images(root)


def test_what_a_manifest_lists_but_cannot_be_read_is_not_called_unlisted(folder, pair, make_png):
    table = b"path,label\nreal/1.png,real\nfake/1.png,fake\nother.png,"
    files = pair | {"manifest.csv": table, "fake/1.png": b"", "other.png": make_png(9)}
    with pytest.raises(DataError, match=r"none is fake: none of those labelled fake can be read; mend them$"):
        load_images(folder(files), max_bad=1.0)
    with pytest.raises(DataError, match=r"no labelled images in .*; none of those with a label can be read; mend"):
        load_images(folder(files | {"real/1.png": b""}, "neither"), max_bad=1.0)


def test_a_black_box_that_names_one_class_is_not_laid_to_the_folders(folder, pair):
    says_real = {f"{c}_preds.json": b'[{"index": 1, "prediction": "real"}]' for c in ("real", "fake")}
    with pytest.raises(DataError, match=r"none is fake: no prediction says fake; use --labels folder$"):
        load_images(folder(pair | says_real), labels="predictions")


def test_a_class_folder_without_images_says_what_it_holds(folder, make_png):
    root = folder({"real/1.png": make_png(1), "fake/a.txt": b"", "fake/b.txt": b""})
    assert refusal(root).endswith("none is fake: 'fake' holds no image but 2 .txt; put fake images into it")


def test_a_class_folder_that_cannot_be_opened_is_not_called_empty(folder, make_png, monkeypatch):
    root = folder({"real/1.png": make_png(1)})
    closed = (Finding("unreadable-folder", "set/fake", "Permission denied"),)
    monkeypatch.setattr(
        FolderStore,
        "scan",
        lambda root: FolderStore(root, str(root), ["real/1.png"], frozenset({"real", "fake"}), closed),
    )
    says = "none is fake: 'set/fake' cannot be opened (Permission denied); give yourself the right to read it"
    assert refusal(root).endswith(says)


def test_a_missing_class_is_looked_for_in_the_folders_left_out(folder, make_png):
    names = ("source/a/1", "source/a/2", "other/Deepfakes/1", "other/Face2Face/1")
    message = refusal(folder({f"{name}.png": make_png(k) for k, name in enumerate(names)}))
    assert "all 1 labelled images" in message
    assert message.endswith(
        "none is real: 3 of 4 images left out, in folders that are neither real nor fake: other/Face2Face, source; "
        "move them below real/ or fake/, or out of the source"
    )


def test_images_in_a_format_that_is_not_read_count_as_such(folder, make_png):
    files = {f"{name}.png": make_png(k) for k, name in enumerate(("real/1", "real/2", "fake/1"))}
    root = folder(files | {"fake/2.gif": b"GIF89a", "fake/3.TIFF": b"II*\0"})
    message = refusal(root)
    assert "2 of 5 images" in message
    assert "first: 'fake/2.gif': GIF is not read; convert it to PNG" in message
    images = load_images(root, max_bad=0.5)
    assert [(f.kind, f.where) for f in images.findings] == [("unreadable", "fake/2.gif"), ("unreadable", "fake/3.TIFF")]


def test_training_refuses_a_source_without_labels_before_anything_is_decoded(folder, make_png, monkeypatch):
    monkeypatch.setattr(sources, "decoded", lambda *_, **__: pytest.fail("decoded"))
    files = {f"{name}/1.png": make_png(k) for k, name in enumerate(("cats", "dogs"))}
    root = folder(files | {"train.csv": b"", "sub/test.csv": b"", "test.csv": b""})
    with pytest.raises(DataError) as caught:
        load_configured(DataConfig(source=str(root)), 0)
    message = str(caught.value)
    assert "none of the folders reads as real or fake (cats, dogs); put real ones below a folder real/" in message
    assert message.endswith(
        f"if a table holds the labels (train.csv, sub/test.csv, test.csv), give its path: '{root / 'train.csv'}'"
    )


def test_labels_in_a_file_that_is_no_table_and_in_an_archive(folder, archive, make_png):
    files = {"a.png": make_png(1), "metadata.json": b"{}"}
    for source in (folder(files), archive(files)):
        message = refusal(source, require_labels=True)
        assert message.endswith("; if 'metadata.json' holds the labels, write the manifest from it")
    packed = archive({"a.png": make_png(1), "a.csv": b"", "b.csv": b""}, "two.zip")
    assert refusal(packed, require_labels=True).endswith("if 'a.csv' holds the labels, write the manifest from it")


def test_a_layout_that_reads_no_labels_is_named_where_there_are_some(folder, pair):
    with pytest.raises(DataError, match=r"--layout unlabelled reads none; leave it out$"):
        load_configured(DataConfig(source=str(folder(pair)), layout="unlabelled"), 0)


def test_images_that_no_class_folder_holds_are_not_denied(folder, make_png):
    message = refusal(folder({"cats/1.png": make_png(1)}), layout="folders", require_classes=False)
    assert "no image in" in message
    assert "lies in a class folder; " in message


def test_archives_in_place_of_images_are_named(folder, archive):
    one = folder({"data.zip": b""})
    assert refusal(one).endswith(f"but an archive; give its path: '{one / 'data.zip'}'")
    two = folder({"real.zip": b"", "fake.zip": b""}, "two")
    assert refusal(two).endswith("but archives (fake.zip, real.zip); unpack them")
    assert refusal(archive({"data.zip": b""})).endswith("but archives (data.zip); unpack them")
