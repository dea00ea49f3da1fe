"""What the name of a folder or a file says."""

from __future__ import annotations

import pytest

from robustbench_df.data.naming import class_of, image_number, names_both, parse_label, place_of, split_of
from robustbench_df.errors import DataError

REAL_NAMES = """real REAL 0_real Nature real_cifake_images RealFaces realFace real_faces RealImages RealArt real_train
    Real_Test train_real validation_real Training_Real real-images Celeb-real YouTube-real original_sequences
    real_videos RealEval"""
FAKE_NAMES = """FAKE ai 1_fake training_fake AI_generated_images FakeFaces fakeFace AiArtData AIImages AIGenerated
    ai_art AIGeneratedImages fake_train Fake-Test fake_eval Celeb-synthesis DeepFakes DeepFake deepfake_images Deepfakes
    manipulated_sequences"""
NEITHER = """imagenet_ai_0419_biggan real_vs_fake real_and_fake_face fake_or_real_photos RealVsFake RealFakeImages
    AINatureImages aircraft AIrcraft test realistic Realism unreal UnReal surreal realistic_fake not_real NotFake non_ai
    NonAI real_estate RealEstate fakenews Fakery artificial really air rail AImages unfake Real2 original_test
    generated_train ai_test"""


@pytest.mark.parametrize(
    ("folder", "label"),
    [(name, label) for names, label in ((REAL_NAMES, 0), (FAKE_NAMES, 1), (NEITHER, -1)) for name in names.split()]
    + [("fake images", 1), ("Real Images", 0), ("AI Generated Images", 1)],
)
def test_class_folders(folder: str, label: int) -> None:
    assert class_of(folder) == label


@pytest.mark.parametrize("folder", ["real_vs_fake", "RealVsFake", "AINatureImages", "real-deepfake"])
def test_names_with_words_of_both_classes(folder: str) -> None:
    assert names_both(folder)
    assert not names_both(folder.lower().replace("fake", "").replace("ai", ""))


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("train Training train_set training_data train-images TrainSet", "train"),
        ("val valid Validation dev val_set validation-split", "val"),
        ("cal calibration", "cal"),
        ("test TESTING test_set testing_data test-images TestImages test_split", "test"),
        (
            "tests testimonials trainers trained train_station testset1 device valley calendar evaluate data images",
            None,
        ),
        ("eval evaluation", None),  # what it stands for, only the other folders tell
    ],
)
def test_split_folders(words: str, part: str | None) -> None:
    assert {split_of(word) for word in words.split()} == {part}


def test_evaluation_is_what_the_caller_says() -> None:
    assert [split_of("Eval", "val"), split_of("evaluation_set", "test")] == ["val", "test"]
    assert place_of("eval/fake").given == "test"
    assert place_of("eval/fake", "val").given == "val"


def test_paths_divide_into_class_split_and_source() -> None:
    assert place_of("train/REAL") == (0, "train", "")
    assert place_of("imagenet_ai_0419_biggan/val/ai") == (1, "val", "imagenet_ai_0419_biggan")
    assert place_of("fake/Validation/sd14/cats") == (1, "val", "sd14/cats")
    assert place_of("fake/ai_art/ai") == (1, "", "ai_art/ai")


def test_an_outer_name_that_is_no_class_is_a_source_and_still_tells_the_split() -> None:
    outer = frozenset({"fake_test"})
    assert place_of("fake_test/real/cats", outer=outer) == (0, "test", "fake_test/cats")
    assert place_of("fake_test/real/cats").label == 1


def test_a_folder_that_names_split_and_class_gives_both() -> None:
    assert place_of("test_real").given == place_of("real_test").given == place_of("RealTest").given == "test"
    assert place_of("training_fake") == (1, "train", "")
    assert place_of("val/fake").given == "val"


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


@pytest.mark.parametrize(("name", "reason"), [("cat.png", "no number"), ("img_1_of_2.png", "2 numbers")])
def test_names_without_one_number_are_refused(name: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        image_number(name)


def test_numbers_in_file_names() -> None:
    assert image_number("synergy25/test/007.png") == 7
    assert image_number("img-12.jpeg") == 12
