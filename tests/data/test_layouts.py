from __future__ import annotations

import json

import pytest

from robustbench_df.data.sources import load_images
from robustbench_df.errors import DataError, UsageError


def rows_of(images):
    return {i: int(label) for i, label in zip(images.ids, images.labels, strict=True)}


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
    assert [(f.kind, f.detail) for f in images.findings] == [("not-an-image", "1 other file ignored: 1 .txt")]


def test_images_in_a_folder_that_names_both_classes_are_not_left_out_in_silence(folder, make_png):
    root = folder({f"{name}/1.png": make_png(k) for k, name in enumerate(("real", "fake", "fake_nature_images"))})
    with pytest.raises(DataError, match=r"'fake_nature_images' in .* names both classes; rename it"):
        load_images(root)


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


def test_test_folders_without_a_class_beside_labelled_ones_are_named(folder, pair, make_png):
    # As in DiffusionForensics: the generated images of a test part lie in folders named by their generator.
    files = {f"test/real/{k}.png": make_png(k) for k in range(2)}
    files |= {f"test/{name}/{k}.png": make_png(k) for name in ("adm", "sdv2") for k in range(3)}
    images = load_images(folder(files | pair))
    assert sorted(rows_of(images).values()) == [-1] * 6 + [0] * 4 + [1] * 2
    (found,) = images.findings
    assert (found.kind, found.where) == ("half-labelled-test", "test/adm")
    assert found.detail.startswith("6 test images without a label beside labelled ones")
    assert "test/adm, test/sdv2" in found.detail


def test_left_out_folders_are_named_with_their_share_not_their_files(folder, make_png):
    names = ["real/1", "fake/Deepfakes/1", "Face2Face/c23/1", "Face2Face/c23/2", "NeuralTextures/a/1", "fakes/1", "0"]
    root = folder(
        {f"set/{name}.png": make_png(k) for k, name in enumerate(names)} | {"set/x/y/fake/1.png": make_png(9)}
    )
    (root / "set" / "x" / "deep" / "er").mkdir(parents=True)
    (root / "set" / "x" / "deep" / "er" / "1.png").write_bytes(make_png(10))
    images = load_images(root)
    (found,) = images.findings
    assert (found.kind, found.where) == ("outside-classes", "0.png")
    assert found.detail == (
        "5 of 9 images left out, in folders that are neither real nor fake: the top folder, Face2Face, NeuralTextures, "
        "x/deep; move them below real/ or fake/, or out of the source"
    )
    assert len(images) == 4


def test_eval_is_judged_on_unless_there_is_a_test_part_too(folder, pair):
    def given(*parts: str) -> dict[str, str]:
        files = {f"{part}/{name}": raw + part.encode() for part in parts for name, raw in pair.items()}
        images = load_images(folder(files, "-".join(parts)))
        return {name.split("/")[0]: part for name, part in zip(images.ids, images.given, strict=True)}

    assert given("train", "eval") == {"train": "train", "eval": "test"}
    assert given("train", "Evaluation", "val") == {"train": "train", "Evaluation": "test", "val": "val"}
    assert given("train_set", "eval", "test_set") == {"train_set": "train", "eval": "val", "test_set": "test"}


def test_a_folder_of_masks_in_a_class_is_pointed_out(folder, pair, make_png):
    files = {f"{name}.png": make_png(k) for k, name in enumerate(("fake/masks/1", "fake/a/masks/2", "fake/sd14/3"), 20)}
    images = load_images(folder(pair | files))
    assert [(f.kind, f.where) for f in images.findings] == [
        ("masks-in-class", "fake/a/masks"),
        ("masks-in-class", "fake/masks"),
    ]
    assert len(images) == 7


def test_each_lowest_folder_becomes_a_group_on_demand(folder, make_png):
    names = ["real/000/1", "real/000/2", "real/a/001/1", "fake/000/1", "2"]
    root = folder({f"{name}.png": make_png(k) for k, name in enumerate(names)})
    assert set(load_images(root).groups) == {""}
    images = load_images(root, layout="unlabelled", group_by="folder")
    groups = dict(zip(images.ids, images.groups, strict=True))
    assert groups == {f"{name}.png": name.rpartition("/")[0] for name in names}
    table = b"path,label,group\nreal/000/1.png,real,x\nreal/000/2.png,real,\nfake/000/1.png,fake,"
    (root / "manifest.csv").write_bytes(table)
    images = load_images(root, layout="manifest", group_by="folder")
    assert sorted(images.groups) == ["fake/000", "real/000", "x"]


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


def test_each_predictions_file_judges_its_own_folder(folder, make_png):
    names = [f"{c}{kind}_images/{k}.png" for c in ("real", "fake") for kind in ("", "_sdxl") for k in (1, 2)]
    files = {name: make_png(k) for k, name in enumerate(names)}
    files |= {f"{name}_preds.json": preds((1, "fake"), (2, "real")) for name in ("real", "real_sdxl", "fake_sdxl")}
    images = load_images(folder(files))
    told = dict(zip(images.ids, images.predictions.tolist(), strict=True))
    assert [told[name] for name in names] == [1, 0, 1, 0, -1, -1, 1, 0]
    assert not images.findings
    del files["fake_images/1.png"], files["fake_images/2.png"]
    with pytest.raises(DataError, match=r"'fake_preds\.json' .*has no folder 'fake_images'"):  # the other has its own
        load_images(folder(files | {"fake_preds.json": preds((1, "real"))}, "another"))


def test_an_index_of_several_images_or_a_file_of_several_folders_is_told(folder, make_png):
    files = {"real_images/7.png": make_png(1), "real_images/007.png": make_png(2), "real_images/8.png": make_png(3)}
    files |= {"fake_a_images/1.png": make_png(4), "real_preds.json": preds((7, "fake"), (8, "real"))}
    images = load_images(folder(files))
    (found,) = images.findings
    assert (found.kind, found.where) == ("ambiguous-index", "real_preds.json:7")
    assert "real_images/7.png" in found.detail
    assert sorted(images.predictions.tolist()) == [-1, -1, -1, 0]
    several = files | {"fake_b_images/1.png": make_png(5), "fake_preds.json": preds((1, "fake"))}
    with pytest.raises(
        DataError, match=r"may belong to fake_a_images, fake_b_images; rename the right one to 'fake_images'"
    ):
        load_images(folder(several, "several"))


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


def test_layout_must_fit(folder, pair):
    root = folder(pair | {"m.csv": b"path,label\nreal/1.png,0"})
    with pytest.raises(UsageError, match="layout 'folders' does not fit"):
        load_images(root / "m.csv", layout="folders")
    with pytest.raises(DataError, match=r"no manifest\.csv"):
        load_images(folder(pair, "plain"), layout="manifest")
