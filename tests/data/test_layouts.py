from __future__ import annotations

import json
import os
import re

import pandas as pd
import pytest

from robustbench_df.data.naming import class_of, parse_label, place_of
from robustbench_df.data.sources import load_images
from robustbench_df.errors import DataError, UsageError


def rows_of(images):
    return {i: int(label) for i, label in zip(images.ids, images.labels, strict=True)}


@pytest.mark.parametrize(
    ("folder", "label"),
    [
        ("real", 0),
        ("FAKE", 1),
        ("0_real", 0),
        ("1_fake", 1),
        ("Nature", 0),
        ("ai", 1),
        ("real_cifake_images", 0),
        ("fake images", 1),
        ("training_fake", 1),
        ("imagenet_ai_0419_biggan", -1),
        ("AI_generated_images", 1),
        ("real_vs_fake", -1),
        ("real_and_fake_face", -1),
        ("fake_or_real_photos", -1),
        ("aircraft", -1),
        ("test", -1),
        ("realistic", -1),
    ],
)
def test_class_folders(folder, label):
    assert class_of(folder) == label


def test_paths_divide_into_class_split_and_source():
    assert place_of("train/REAL") == (0, "train", "")
    assert place_of("imagenet_ai_0419_biggan/val/ai") == (1, "val", "imagenet_ai_0419_biggan")
    assert place_of("fake/Validation/sd14/cats") == (1, "val", "sd14/cats")
    assert place_of("fake/ai_art/ai") == (1, "", "ai_art/ai")


@pytest.mark.parametrize("packed", [False, True])
def test_folders_splits_sources_and_wrapper(folder, archive, make_png, packed):
    names = [
        "cifake/Train/REAL/2.png",
        "cifake/Train/REAL/10.png",
        "cifake/Train/FAKE/sd14/1.png",
        "cifake/validation/1_fake/1.png",
        "cifake/TEST/0_real/1.png",
    ]
    files = {name: make_png(k) for k, name in enumerate(names)}
    junk = {"__MACOSX/cifake/._x.png": b"", "cifake/.DS_Store": b"", "cifake/Thumbs.db": b"", "cifake/notes.txt": b""}
    images = load_images((archive if packed else folder)(files | junk))
    assert images.layout == "folders"
    assert list(images.ids) == [
        "TEST/0_real/1.png",
        "Train/FAKE/sd14/1.png",
        "Train/REAL/2.png",
        "Train/REAL/10.png",
        "validation/1_fake/1.png",
    ]
    assert images.labels.tolist() == [0, 1, 0, 0, 1]
    assert list(images.given) == ["test", "train", "train", "train", "val"]
    assert list(images.sources) == ["", "sd14", "", "", ""]
    assert [(f.kind, f.detail) for f in images.findings] == [("not-an-image", "1 other files ignored: 1 .txt")]


def test_images_in_a_folder_that_names_both_classes_are_not_left_out_in_silence(folder, make_png):
    root = folder({f"{name}/1.png": make_png(k) for k, name in enumerate(("real", "fake", "fake_nature_images"))})
    with pytest.raises(DataError, match=r"'fake_nature_images' in .* names both classes; rename it"):
        load_images(root)


@pytest.mark.parametrize(
    ("folders", "path", "outer", "inner"),
    [
        (("AI_generated_images/real", "AI_generated_images/fake", "real_photos"), "AI_generated_images/real", 1, 0),
        (("AI_generated_images/real", "AI_generated_images/fake"), "AI_generated_images/real", 1, 0),
        (("fake", "real", "real/camera/fake"), "real/camera/fake", 0, 1),
        (("real/real", "real/fake", "fake/real", "fake/fake"), "fake/real", 1, 0),
        (("train/fake/original", "train/real/camera"), "train/fake/original", 1, 0),
        (("real/nature", "fake/nature", "fake/nature/original"), "fake/nature/original", 1, 0),
    ],
)
def test_a_path_that_names_both_classes_is_never_guessed_at(folder, make_png, folders, path, outer, inner):
    root = folder({f"{name}/1.png": make_png(k) for k, name in enumerate(folders)})
    says = ("real", "fake")
    with pytest.raises(
        DataError, match=f"'{path}' in .* says {says[outer]} by .* but {says[inner]} by .*; rename"
    ) as error:
        load_images(root, require_classes=False)
    assert "\n" not in str(error.value)
    assert (load_images(root, layout="unlabelled").labels == -1).all()
    rows = [f"{name}/1.png,{says[k % 2]}" for k, name in enumerate(folders)]
    (root / "manifest.csv").write_text("\n".join(["path,label", *rows]), "utf-8")
    assert set(load_images(root).labels) == {0, 1}


def test_a_class_word_that_tells_no_classes_apart_is_a_source_and_a_finding(folder, make_png):
    names = ["real/nature", "real/stylegan", "fake/Nature", "fake/ai", "fake/sd14"]
    images = load_images(folder({f"{name}/1.png": make_png(k) for k, name in enumerate(names) if name != "fake/ai"}))
    assert rows_of(images) == {
        "fake/Nature/1.png": 1,
        "fake/sd14/1.png": 1,
        "real/nature/1.png": 0,
        "real/stylegan/1.png": 0,
    }
    assert list(images.sources) == ["Nature", "sd14", "nature", "stylegan"]
    assert [(f.kind, f.where) for f in images.findings] == [("class-word-in-both", "fake/Nature")]
    with pytest.raises(DataError, match="'fake/Nature' in"):  # beside "ai" it divides
        load_images(folder({f"{name}/1.png": make_png(k) for k, name in enumerate(names)}, "divided"))


@pytest.mark.parametrize("packed", [False, True])
def test_a_wrapper_may_name_both_classes(folder, archive, make_png, packed):
    files = {f"rf/real_and_fake_face/training_{c}/1.png": make_png(k) for k, c in enumerate(("real", "fake"))}
    images = load_images((archive if packed else folder)(files))
    assert rows_of(images) == {"training_fake/1.png": 1, "training_real/1.png": 0}
    assert list(images.given) == ["train", "train"]


def test_zip_and_folder_give_the_same_fingerprint(folder, archive, pair):
    on_disk, packed = load_images(folder(pair)), load_images(archive({f"w/{n}": raw for n, raw in pair.items()}))
    assert on_disk.fingerprint == packed.fingerprint
    assert list(on_disk.ids) == ["fake/1.png", "fake/2.png", "real/1.png", "real/10.png"]


def test_test_folder_without_classes_is_unlabelled_and_others_are_left_out(folder, pair, make_png):
    images = load_images(folder(pair | {"test/1.png": make_png(9), "cats/1.png": make_png(8)}))
    assert rows_of(images)["test/1.png"] == -1
    assert images.given[list(images.ids).index("test/1.png")] == ""
    assert "cats/1.png" not in images.ids
    assert [f.kind for f in images.findings] == ["outside-classes"]


def test_unlabelled_folder_and_single_image(folder, make_png):
    root = folder({"2.png": make_png(1), "10.png": make_png(2)})
    images = load_images(root)
    assert (images.layout, rows_of(images)) == ("unlabelled", {"2.png": -1, "10.png": -1})
    assert list(images.ids) == ["2.png", "10.png"]
    single = load_images(root / "10.png")
    assert (single.layout, list(single.ids), single.labels.tolist()) == ("unlabelled", ["10.png"], [-1])


def test_unlabelled_is_said_when_folders_looked_like_classes(folder, make_png, pair):
    images = load_images(folder({"cats/1.png": make_png(1), "dogs/1.png": make_png(2)}))
    assert [f.kind for f in images.findings] == ["no-class-folders"]
    assert list(images.sources) == ["cats", "dogs"]
    assert (load_images(folder(pair, "labelled"), layout="unlabelled").labels == -1).all()


def preds(*rows):
    return json.dumps([dict(zip(("index", "prediction", "label"), row, strict=False)) for row in rows]).encode()


@pytest.mark.parametrize(("real", "fake"), [("real_cifake", "fake_cifake"), ("real", "fake")])
def test_challenge_keeps_labels_and_predictions(archive, make_png, real, fake):
    path = archive(
        {
            f"s/{real}_images/1.png": make_png(1),
            f"s/{real}_images/10.png": make_png(2),
            f"s/{fake}_images/1.png": make_png(3),
            f"s/{fake}_images/2.png": make_png(4),
            "s/test/1.png": make_png(5),
            f"s/{real}_preds.json": preds((1, "fake"), (10, "real", "real")),
            f"s/{fake}_preds.json": preds((1, "fake"), (2, "real", "real"), (7, "fake")),
        }
    )
    images = load_images(path)
    order = [f"{fake}_images/1.png", f"{fake}_images/2.png", f"{real}_images/1.png", f"{real}_images/10.png"]
    assert list(images.ids) == [*order, "test/1.png"]
    assert images.labels.tolist() == images.folder_labels.tolist() == [1, 1, 0, 0, -1]
    assert images.predictions.tolist() == [1, 0, 1, 0, -1]
    assert list(images.given) == [""] * 5
    found = {(f.kind, f.where) for f in images.findings}
    assert found == {
        ("missing-image", f"{fake}_preds.json:7"),
        ("label-mismatch", f"{fake}_preds.json:2"),
    }
    relabelled = load_images(path, labels="predictions")
    assert relabelled.labels.tolist() == [1, 0, 1, 0, -1]
    assert relabelled.folder_labels.tolist() == [1, 1, 0, 0, -1]
    assert relabelled.fingerprint != images.fingerprint


def test_challenge_counts_missing_and_conflicting_rows(folder, pair):
    files = pair | {"real_preds.json": preds((1, "real"), (1, "fake")), "fake_preds.json": preds((2, "fake"))}
    images = load_images(folder(files))
    kinds = sorted((f.kind, f.where) for f in images.findings)
    assert kinds == [
        ("conflicting-predictions", "real_preds.json:1"),
        ("missing-prediction", "fake/1.png"),
        ("missing-prediction", "real/10.png"),
    ]
    assert images.predictions.tolist() == [-1, 1, -1, -1]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"[{", "JSON list"),
        (b'{"1": "real"}', "holds a dict"),
        (b'[{"index": 1}]', "row 0"),
        (preds((1, "maybe")), "unknown label 'maybe'"),
    ],
)
def test_malformed_predictions_are_one_line(folder, pair, raw, message):
    with pytest.raises(DataError, match=message) as caught:
        load_images(folder(pair | {"real_preds.json": raw}))
    assert "\n" not in str(caught.value)


def test_predictions_without_their_folder(folder, pair):
    with pytest.raises(DataError, match=r"'other_preds\.json'.*no folder 'other_images'"):
        load_images(folder(pair | {"other_preds.json": preds((1, "real"))}))


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
        "left-out",
        "layout manifest leaves out 1 of 1 images; --layout unlabelled takes these",
    )


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


def test_labels_as_words_and_numbers():
    assert [parse_label(v, None, "") for v in ("Real", "FAKE", 0, 1, "1.0", "", None, "-1")] == [
        0,
        1,
        0,
        1,
        1,
        -1,
        -1,
        -1,
    ]
    assert [parse_label(v, 0, "") for v in ("Real", "FAKE", 0, 1, "1.0")] == [0, 1, 1, 0, 0]
    with pytest.raises(DataError, match="unknown label 'true' in row 3"):
        parse_label("true", None, "row 3")


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
        ("file,label\nreal/1.png,0", "no column 'path' .it has file, label.; add one"),
        ("path,label\nreal/1.png,cat", "unknown label 'cat' in row 1"),
        ("path,label,split\nreal/1.png,0,trian", "unknown split 'trian' .did you mean 'train'"),
        ("path,label\nreal/1.png,0\nreal/1.png,1", "listed twice with different labels"),
        ("path,label\n,0", "row 1 of 'm.csv' has the path ''"),
        ("", "no column 'path'"),
        ("path,label", "no images"),
        ("path,label,Label\nreal/1.png,0,1", "has the column 'label' twice"),
        (
            "path,label\nreal/1.png,0\nfake/1.png,",
            "none is fake: list some with 'fake' in the manifest's column 'label'$",
        ),
        (
            "path,label\nreal/1.png,\nfake/1.png,",
            "no labelled images .*; write real or fake into the .* column 'label'$",
        ),
        ("path,class\nreal/1.png,0", r"column 'label' \(column 'class' is not used\)$"),
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
    assert [f.kind for f in load_images(folder(pair | {"manifest.csv": rows.encode()})).findings] == [
        "unused-column"
    ] * 3


def test_manifest_in_a_zip_cannot_climb_out(archive, pair):
    path = archive(pair | {"manifest.csv": b"path,label\n../../etc/passwd,0"})
    with pytest.raises(DataError, match="must name an image in the archive"):
        load_images(path)


def test_manifest_lists_missing_and_repeated_files(folder, pair):
    rows = "path,label\nreal/1.png,0\nreal/1.png,0\nfake/1.png,1\nfake/9.png,1"
    images = load_images(folder(pair | {"manifest.csv": rows.encode()}), max_bad=0.5)
    assert sorted((f.kind, f.where) for f in images.findings) == [
        ("duplicate-row", "real/1.png"),
        ("missing-image", "fake/9.png"),
    ]


def test_a_stray_table_does_not_hide_class_folders(folder, pair):
    assert load_images(folder(pair | {"scores.csv": b"a,b\n1,2"})).layout == "folders"


def test_layout_must_fit(folder, pair):
    root = folder(pair | {"m.csv": b"path,label\nreal/1.png,0"})
    with pytest.raises(UsageError, match="layout 'folders' does not fit"):
        load_images(root / "m.csv", layout="folders")
    with pytest.raises(DataError, match=r"no manifest\.csv"):
        load_images(folder(pair, "plain"), layout="manifest")


def test_a_folder_that_names_split_and_class_gives_both() -> None:
    assert place_of("test_real").given == "test"
    assert place_of("training_fake") == (1, "train", "")
    assert place_of("val/fake").given == "val"
