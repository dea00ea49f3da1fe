from __future__ import annotations

import json

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
    rows = [f"{name}/1.png,{says[(k + ('fake' in folders[0])) % 2]}" for k, name in enumerate(folders)]
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
