"""Labels held against paths and columns of words: upside down is refused, single contradictions are findings."""

from __future__ import annotations

import pytest

from robustbench_df.data.sources import load_images
from robustbench_df.errors import DataError

KAGGLE = ",original_path,id,label,label_str,path"
"""The header of the set "140k Real and Fake Faces", in which 1 means real."""


@pytest.fixture
def write(folder, pair):
    """Write a manifest beside two images of each class; return its path."""
    root = folder({f"train/{name}": raw for name, raw in pair.items()} | pair)

    def manifest(*rows: str):
        path = root / "m.csv"
        path.write_text("\n".join(rows), "utf-8")
        return path

    return manifest


def kaggle(pair):
    return [f"{k},/kaggle/input/real/{k}.jpg,{k},{int(n[:4] == 'real')},{n[:4]},train/{n}" for k, n in enumerate(pair)]


def test_a_public_set_with_1_for_real_is_not_learnt_upside_down(write, pair):
    table = write(KAGGLE, *kaggle(pair))
    for fake_is in (None, 1):
        with pytest.raises(DataError) as error:
            load_images(table, fake_is=fake_is)
        assert str(error.value) == (
            "the labels in 'm.csv' contradict all 4 paths that name a class: 'train/fake/1.png' is labelled real; "
            "if 0 means fake, use --fake-is 0; else mend the labels or rename the folders"
        )
    images = load_images(table, fake_is=0)
    assert [(i.split("/")[1], y) for i, y in zip(images.ids, images.labels.tolist(), strict=True)] == [
        *[("fake", 1)] * 2,
        *[("real", 0)] * 2,
    ]
    assert {found.kind for found in images.findings} == {"unused-column"}


@pytest.mark.parametrize(
    ("labels", "fake_is", "remedy"),
    [
        ((0, 1), 0, "if 1 means fake, leave out --fake-is 0; else mend the labels or rename the folders"),
        (("fake", "real"), None, "is labelled real; mend the labels or rename the folders"),
        (("fake", 0), None, "is labelled real; mend the labels or rename the folders"),
    ],
)
def test_the_remedy_is_one_that_turns_these_labels_round(write, labels, fake_is, remedy):
    rows = [f"{name},{label}" for name, label in zip(("real/1.png", "fake/1.png"), labels, strict=True)]
    with pytest.raises(DataError, match=f"{remedy}$"):
        load_images(write("path,label", *rows), fake_is=fake_is)
    if fake_is == 0:
        assert load_images(write("path,label", *rows)).labels.tolist() == [1, 0]


@pytest.mark.parametrize("packed", [False, True])
def test_a_manifest_found_beside_class_folders_is_held_against_them(folder, archive, pair, packed):
    table = "\n".join(["path,label", *(f"{name},{int(name[:4] == 'real')}" for name in pair)])
    source = (archive if packed else folder)(pair | {"manifest.csv": table.encode()})
    with pytest.raises(DataError, match=r"contradict all 4 paths .*, or use --layout folders$"):
        load_images(source)
    assert load_images(source, fake_is=0).labels.tolist() == load_images(source, layout="folders").labels.tolist()


def test_single_contradictions_are_findings_and_the_label_counts(write):
    images = load_images(write("path,label", "real/1.png,0", "real/10.png,1", "fake/1.png,1", "fake/2.png,"))
    assert [(f.kind, f.where, f.detail) for f in images.findings] == [
        ("label-mismatch", "real/10.png", "labelled fake, but its path says real; the label counts")
    ]
    assert images.labels.tolist() == [1, -1, 0, 1]


def test_a_single_path_that_names_a_class_is_enough(folder, pair, make_png):
    root = folder(pair | {"x/1.png": make_png(9), "m.csv": b"path,label\nx/1.png,0\nreal/1.png,1"})
    with pytest.raises(DataError, match=r"contradict the only path that names a class: .* is labelled fake"):
        load_images(root / "m.csv")


@pytest.mark.parametrize(
    "rows",
    [
        ["c/1.png,0", "c/2.png,1", "nature/3.png,1"],  # "nature" is a category here
        ["people/1.png,0", "people/2.png,1", "nature/3.png,1", "nature/4.png,1"],
    ],
)
def test_a_category_that_sounds_like_a_class_is_a_finding_and_no_refusal(folder, make_png, rows):
    files = {row.split(",")[0]: make_png(k) for k, row in enumerate(rows)}
    images = load_images(folder(files | {"m.csv": "\n".join(["path,label", *rows]).encode()}) / "m.csv")
    assert sorted(images.labels) == sorted(int(row[-1]) for row in rows)
    assert {(f.kind, f.where) for f in images.findings} == {
        ("label-mismatch", name) for name in files if name.startswith("nature")
    }


def test_a_class_word_above_all_images_says_nothing(folder, make_png):
    names = ("deepfakes/a/1.png", "deepfakes/b/2.png")
    table = f"path,label\n{names[0]},0\n{names[1]},1"
    images = load_images(folder({n: make_png(k) for k, n in enumerate(names)} | {"m.csv": table.encode()}) / "m.csv")
    assert (images.labels.tolist(), images.findings) == ([0, 1], ())


def test_a_column_filled_for_one_label_alone_contradicts_nothing(folder, make_png):
    table = "path,label,made_from\n1.png,0,\n2.png,1,real\n3.png,1,real"
    files = {f"{k}.png": make_png(k) for k in (1, 2, 3)}
    images = load_images(folder(files | {"m.csv": table.encode()}) / "m.csv")
    assert images.labels.tolist() == [0, 1, 1]
    assert [f.kind for f in images.findings] == ["unused-column"]


def test_a_prediction_does_without_labels_in_every_way_of_asking(folder, pair):
    some = {name: pair[name] for name in ("real/1.png", "fake/1.png")}
    root = folder(some | {"manifest.csv": b"path,label\nreal/1.png,1\nfake/1.png,0"})
    for source, layout in ((root, "auto"), (root, "manifest"), (root / "manifest.csv", "auto")):
        with pytest.raises(DataError, match="contradict all 2 paths"):
            load_images(source, layout=layout)
        assert len(load_images(source, layout=layout, require_classes=False, every_image=True)) == 2


def test_a_path_that_names_both_classes_says_nothing(folder, make_png):
    names = ("AI_generated_images/real/1.png", "AI_generated_images/real_or_fake/2.png")
    table = "\n".join(["path,label", f"{names[0]},real", f"{names[1]},fake"])
    images = load_images(folder({n: make_png(k) for k, n in enumerate(names)} | {"manifest.csv": table.encode()}))
    assert (images.labels.tolist(), images.findings) == ([0, 1], ())


def test_of_absolute_paths_only_what_tells_them_apart_counts(folder, pair):
    """What lies above the manifest, or above all images elsewhere, says nothing about one image."""
    root = folder({f"ai/{name}": raw for name, raw in pair.items()} | {"lists/empty.txt": b""})

    def load(where, rows):
        text = ["path,label", *(f"{root}/ai/{name},{label}" for name, label in rows.items())]
        (root / where / "m.csv").write_text("\n".join(text), "utf-8")
        return load_images(root / where / "m.csv")

    for where in ("ai", "lists"):
        assert load(where, {"real/1.png": "real", "fake/1.png": "fake"}).findings == ()
        with pytest.raises(DataError, match="contradict all 2 paths that name a class"):
            load(where, {"real/1.png": "fake", "fake/1.png": "real"})
        assert load(where, {"real/1.png": "fake", "real/10.png": "real"}).findings == ()


@pytest.mark.parametrize("column", ["label_str", "class", "class_name", "kind"])
def test_a_column_of_class_words_that_contradicts_every_label_is_the_same_error(folder, make_png, column):
    root = folder({f"{k}.png": make_png(k) for k in range(2)})

    def write(*rows):
        (root / "m.csv").write_text("\n".join([f"path,label,{column}", *rows]), "utf-8")
        return root / "m.csv"

    table = write("0.png,1,real", "1.png,0,Fake")
    with pytest.raises(DataError, match=f"column '{column}' of 'm.csv' contradicts .* in every row: it says") as error:
        load_images(table)
    assert str(error.value).endswith(
        f"; if 0 means fake, use --fake-is 0; else mend the labels or leave out '{column}'"
    )
    assert load_images(table, fake_is=0).labels.tolist() == [0, 1]
    for rows in (("0.png,0,real", "1.png,1,real"), ("0.png,1,real", "1.png,0,cat"), ("0.png,1,", "1.png,0,")):
        assert len(load_images(write(*rows))) == 2
