"""Manifests: a table of paths and labels, on disk or in a zip."""

from __future__ import annotations

import os

import pandas as pd
import pytest

from robustbench_df.data.sources import load_images
from robustbench_df.errors import DataError
from tests.data.test_layouts import rows_of

TABLE = {
    "path": ["real/1.png", "./fake/1.png", "fake/2.png", "real/10.png"],
    "label": ["0", "1", "fake", "REAL"],
    "group": ["a", "", "b", ""],
    "source": ["cam", "sd", "sd", ""],
    "split": ["train", "Training", "test", ""],
}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("packed", [False, True])
def test_manifest_as_csv_or_parquet_on_disk_or_in_a_zip(folder, archive, pair, kind, packed):
    table = pd.DataFrame(TABLE)
    raw = table.to_csv(index=False).encode("utf-8-sig") if kind == "csv" else table.to_parquet()
    files = {f"w/{name}": image for name, image in pair.items()} | {f"w/manifest.{kind}": raw}
    images = load_images((archive if packed else folder)(files))
    assert images.layout == "manifest"
    assert list(images.ids) == ["fake/1.png", "fake/2.png", "real/1.png", "real/10.png"]
    assert images.labels.tolist() == [1, 1, 0, 0]
    assert list(images.groups) == ["", "b", "a", ""]
    assert list(images.sources) == ["sd", "sd", "cam", ""]
    assert list(images.given) == ["train", "test", "train", ""]


def test_manifest_numbers_follow_fake_is_and_absolute_paths_are_allowed(folder, pair, tmp_path):
    root = folder(pair)
    lines = ["Path,LABEL", f"{root}/real/1.png,1", f"{os.path.relpath(root, tmp_path)}/fake/1.png,0"]
    manifest = tmp_path / "list.csv"
    manifest.write_text("\n".join(lines), "utf-8")
    images = load_images(manifest, fake_is=0)
    assert {i.rsplit("/", 2)[1]: label for i, label in rows_of(images).items()} == {"real": 0, "fake": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("where,label\nreal/1.png,0", "no column 'path' .it has where, label.; add one"),
        ("path,label\nreal/1.png,cat", "unknown label 'cat' in row 1"),
        ("path,label,split\nreal/1.png,0,trian", "unknown split 'trian' .did you mean 'train'"),
        ("path,label\nreal/1.png,0\nreal/1.png,1", "listed twice with different labels"),
        ("path,label\n,0", "row 1 of 'm.csv' has the path ''"),
        ("", "no column 'path'"),
        ("path,label", "'m.csv' lists nothing; write a row for each image$"),
        ("path,label,Label\nreal/1.png,0,1", "has the column 'label' twice"),
        (
            "path,label\nreal/1.png,0\nfake/1.png,",
            "none is fake: list some with 'fake' in the manifest's column 'label'$",
        ),
        (
            "path,label\nreal/1.png,\nfake/1.png,",
            "no labelled images .*; write real or fake into the .* column 'label'$",
        ),
        ("path,width\nreal/1.png,8", r"column 'label' \(column 'width' is not used\)$"),
    ],
)
def test_manifest_errors_are_one_line(folder, pair, text, message):
    root = folder(pair | {"m.csv": text.encode()})
    with pytest.raises(DataError, match=message) as caught:
        load_images(root / "m.csv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_that_are_not_used_are_findings_and_no_bad_images(folder, pair, kind):
    table = pd.DataFrame({"Sauce": "a", "Width": 8} | TABLE).drop(columns="source")
    raw = table.to_csv(index=False).encode() if kind == "csv" else table.to_parquet()
    images = load_images(folder(pair | {f"manifest.{kind}": raw}), max_bad=0)
    assert [(f.kind, f.where, f.detail) for f in images.findings] == [
        ("unused-column", f"manifest.{kind}", "column 'sauce' is not used (did you mean 'source'?)"),
        ("unused-column", f"manifest.{kind}", "column 'width' is not used"),
    ]
    assert list(images.groups) == ["", "b", "a", ""]


@pytest.mark.parametrize(
    ("column", "meant"),
    [
        *(("labels", "label"), ("lable", "label"), ("true_label", "label")),
        *(("grp", "group"), ("Groups", "group"), ("group_id", "group"), ("splits", "split")),
    ],
)
def test_a_misspelt_decisive_column_is_refused_unless_the_right_one_is_there(folder, pair, column, meant):
    root, known = folder(pair), ["label", "group", "split"]
    rest = [name for name in known if name != meant]
    cells = {"label": ("0", "1"), "group": ("a", "b"), "split": ("train", "test")}

    def write(columns):
        rows = [
            [path, *(cells.get(c, cells[meant])[k] for c in columns)]
            for k, path in enumerate(["real/1.png", "fake/1.png"])
        ]
        (root / "m.csv").write_text("\n".join(map(",".join, [["path", *columns], *rows])), "utf-8")

    write([*rest, column])
    with pytest.raises(DataError, match=f"'m.csv' has no column '{meant}' but '{column.lower()}'; rename it"):
        load_images(root / "m.csv", require_classes=False)
    write([*known, column])
    images = load_images(root / "m.csv")
    assert [f.detail for f in images.findings] == [f"column '{column.lower()}' is not used"]


def test_a_column_that_is_only_a_little_like_a_decisive_one_is_allowed(folder, pair):
    rows = "path,label,site,age_group,label_source\nreal/1.png,0,a,3,x\nfake/1.png,1,b,4,y"
    images = load_images(folder(pair | {"m.csv": rows.encode()}) / "m.csv")
    assert [f.kind for f in images.findings] == ["unused-column"] * 3


def test_manifest_in_a_zip_cannot_climb_out(archive, pair):
    path = archive(pair | {"manifest.csv": b"path,label\n../../etc/passwd,0"})
    with pytest.raises(DataError, match="must name an image in the archive"):
        load_images(path)


def test_manifest_lists_missing_and_repeated_files(folder, pair):
    rows = "path,label\nreal/1.png,0\nreal/1.png,0\nfake/1.png,1\nfake/9.png,1"
    images = load_images(folder(pair | {"m.csv": rows.encode()}) / "m.csv", max_bad=0.5)
    assert sorted((f.kind, f.where) for f in images.findings) == [
        ("duplicate-row", "real/1.png"),
        ("missing-image", "fake/9.png"),
    ]


def test_a_stray_table_does_not_hide_class_folders(folder, pair):
    assert load_images(folder(pair | {"scores.csv": b"a,b\n1,2"})).layout == "folders"


@pytest.mark.parametrize("packed", [False, True])
def test_backslashes_divide_folders_unless_a_file_is_so_called(folder, archive, pair, make_png, packed):
    rows = "\n".join(["path,label", *(f"{name},{name[:4]}".replace("/", "\\") for name in pair)])
    assert set(load_images((archive if packed else folder)(pair | {"manifest.csv": rows.encode()})).ids) == set(pair)
    if not packed and os.sep == "/":
        odd = folder({"a\\b.png": make_png(8), "m.csv": b"path\na\\b.png"}, "odd")
        assert list(load_images(odd / "m.csv", require_classes=False).ids) == ["a\\b.png"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layout", ["folders", "unlabelled"])
def test_a_manifest_in_a_folder_says_how_many_images_there_it_does_not_list(folder, archive, make_png, packed, layout):
    tops = ("real", "fake") if layout == "folders" else ("a", "b")
    files = {f"{top}/{k}.png": make_png(10 * k + len(top)) for top in tops for k in range(3)}
    table = f"path,label\n{tops[0]}/0.png,real\n./{tops[1]}/0.png,fake"
    source = (archive if packed else folder)(files | {"manifest.csv": table.encode()})
    images = load_images(source)
    assert (images.layout, len(images)) == ("manifest", 2)
    assert [(f.kind, f.where, f.detail) for f in images.findings] == [
        ("not-listed", "manifest.csv", f"4 images here are not listed; --layout {layout} reads the folder without it")
    ]
    assert len(load_images(source, layout=layout)) == 6


def test_images_listed_through_a_link_are_not_said_to_be_hidden(folder, pair, tmp_path):
    root = folder(pair)
    (tmp_path / "link").symlink_to(root, target_is_directory=True)
    rows = [f"{tmp_path / 'link' / name},{name.split('/', maxsplit=1)[0]}" for name in pair]
    (root / "manifest.csv").write_text("\n".join(["path,label", *rows]), "utf-8")
    images = load_images(root)
    assert (len(images), images.findings) == (4, ())


def test_a_manifest_that_is_named_or_lists_all_hides_nothing(folder, pair):
    some = folder(pair | {"manifest.csv": b"path,label\nreal/1.png,real\nfake/1.png,fake"})
    assert load_images(some / "manifest.csv").findings == ()
    (some / "manifest.csv").write_text("\n".join(["path,label", *(f"{some}/{name},{name[:4]}" for name in pair)]))
    assert load_images(some).findings == ()


def test_a_manifest_that_lists_nothing_is_not_told_to_be_read_as_images_that_are_not_there(folder):
    with pytest.raises(DataError, match=r"lists nothing; write a row for each image$"):
        load_images(folder({"manifest.csv": b"path,label"}))
