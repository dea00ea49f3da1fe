"""A column under another name than the manifest's own: refused, with a remedy that works when it is followed."""

from __future__ import annotations

import pandas as pd
import pytest

from robustbench_df.data.sources import load_images
from robustbench_df.errors import DataError

PATHS = ("real/1.png", "fake/1.png")


@pytest.fixture
def write(folder, pair):
    """Write a manifest of two images beside them; return its path."""
    root = folder(pair)

    def manifest(columns: dict[str, tuple[object, object]], kind: str = "csv"):
        table = pd.DataFrame(columns)
        path = root / f"m.{kind}"
        path.write_bytes(table.to_csv(index=False).encode() if kind == "csv" else table.to_parquet())
        return path

    return manifest


@pytest.mark.parametrize(
    "name", ["file_name", "filename", "file", "image", "image_path", "filepath", "img", "img_path", "File Path"]
)
def test_a_usual_name_of_the_path_is_to_be_renamed(write, name):
    rest = {"label": ("real", "fake")}
    with pytest.raises(DataError, match=rf"no column 'path' \(it has '', {name.lower()}, label\); rename") as error:
        load_images(write({"": (0, 1), name: PATHS} | rest))
    assert str(error.value).endswith(f"; rename '{name.lower()}' to 'path'")
    assert len(load_images(write({"path": PATHS} | rest))) == 2


def test_beside_a_path_a_files_name_is_not_the_one_to_rename(write):
    with pytest.raises(DataError, match=r"; rename 'image_path' to 'path'$"):
        load_images(write({"filename": ("1.png", "1.png"), "image_path": PATHS, "label": (0, 1)}))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("name", ["set", "partition", "subset", "fold", "usage"])
def test_a_column_of_parts_is_not_passed_over(write, kind, name):
    table = {"path": PATHS, "label": ("real", "fake")}
    parts = ("Training", "test")
    with pytest.raises(
        DataError,
        match=rf"^column '{name}' of 'm.{kind}' holds parts \(Training, test\); rename it to 'split', or leave it out$",
    ):
        load_images(write(table | {name: parts}, kind))
    assert list(load_images(write(table | {"split": parts}, kind)).given) == ["test", "train"]
    assert list(load_images(write(table, kind)).given) == ["", ""]


@pytest.mark.parametrize("values", [("train", "holdout"), (0, 1), ("", "")])
def test_other_words_and_folds_are_columns_that_are_not_used(write, values):
    images = load_images(write({"path": PATHS, "label": ("real", "fake"), "fold": values}))
    assert [f.detail for f in images.findings] == ["column 'fold' is not used"]


def test_parts_beside_a_split_and_labels_beside_a_label_are_not_refused(write):
    table = {"path": PATHS, "label": (0, 1), "split": ("train", "test"), "set": ("test", "train"), "target": (1, 0)}
    images = load_images(write(table))
    assert ([f.kind for f in images.findings], list(images.given)) == (["unused-column"] * 2, ["test", "train"])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("name", "values", "fake_is", "remedy", "renamed", "then"),
    [
        ("class", ("real", "fake"), None, "rename it to 'label'", ("real", "fake"), None),
        ("origin", ("Nature", "AI"), None, "rename it to 'label'", ("Nature", "AI"), None),
        ("target", (0, 1), None, "rename it to 'label' and use --fake-is 0 if 0 means fake", (0, 1), None),
        ("y", (1, 0), 0, "rename it to 'label'", (1, 0), 0),
        ("gt", (0.0, 1.0), 1, "rename it to 'label'", (0, 1), 1),
        ("is_fake", (0, 1), None, "rename it to 'label'", (0, 1), None),
        ("is_fake", (0, 1), 0, "rename it to 'label' and leave out --fake-is 0", (0, 1), None),
        ("is_real", (1, 0), None, "rename it to 'label' and use --fake-is 0", (1, 0), 0),
        (
            "isReal",
            (True, False),
            None,
            "rename it to 'label', write 1 for true and 0 for false and use --fake-is 0",
            (1, 0),
            0,
        ),
    ],
)
def test_labels_under_another_name_are_not_passed_over(write, kind, name, values, fake_is, remedy, renamed, then):
    with pytest.raises(DataError, match=rf"^column '{name.lower()}' of 'm.{kind}' holds labels \(") as error:
        load_images(write({"path": PATHS, name: values}, kind), fake_is=fake_is, require_classes=False)
    assert str(error.value).endswith(f"; {remedy}, or leave it out")
    images = load_images(write({"path": PATHS, "label": renamed}, kind), fake_is=then)
    assert dict(zip(images.ids, images.labels.tolist(), strict=True)) == {"real/1.png": 0, "fake/1.png": 1}


@pytest.mark.parametrize(("name", "values"), [("class", ("cat", "dog")), ("target", (0, 7)), ("blurred", (0, 1))])
def test_columns_of_something_else_leave_the_images_unlabelled(write, name, values):
    images = load_images(write({"path": PATHS, name: values}), require_classes=False)
    assert images.labels.tolist() == [-1, -1]
    assert [f.detail for f in images.findings] == [f"column '{name}' is not used"]
