"""Paths that name both classes are refused, unless one of the names tells no classes apart."""

from __future__ import annotations

import pytest

from robustbench_df.data.sources import load_images
from robustbench_df.errors import DataError
from tests.data.test_layouts import rows_of


@pytest.mark.parametrize(
    ("folders", "path", "outer", "inner"),
    [
        (("AI_generated_images/real", "AI_generated_images/fake", "real_photos"), "AI_generated_images/real", 1, 0),
        (
            ("AI_generated_images/real", "AI_generated_images/fake", "AI_generated_images"),
            "AI_generated_images/real",
            1,
            0,
        ),
        (("a/real/real", "a/real/fake", "b/fake/real", "b/fake/fake"), "a/real/fake", 0, 1),
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


@pytest.mark.parametrize(
    ("folders", "labels", "sources"),
    [
        (("AI_generated_images/real", "AI_generated_images/fake"), (0, 1), {"AI_generated_images"}),
        (
            ("deepfake/0_real", "deepfake/1_fake", "progan/cat/0_real", "progan/cat/1_fake"),
            (0, 1, 0, 1),
            {"deepfake", "progan/cat"},
        ),
        (
            ("deepfakes/Train/Real/a", "deepfakes/Train/Fake", "deepfakes/Test/Real"),
            (0, 1, 0),
            {"deepfakes", "deepfakes/a"},
        ),
        (("x/fake/real", "x/fake/fake", "y/ai/real", "y/ai/ai"), (0, 1, 0, 1), {"x/fake", "y/ai"}),
    ],
)
def test_a_class_word_above_both_classes_is_a_source_and_a_finding(folder, make_png, folders, labels, sources):
    images = load_images(folder({f"{name}/1.png": make_png(k) for k, name in enumerate(folders)}))
    assert rows_of(images) == {f"{name}/1.png": label for name, label in zip(folders, labels, strict=True)}
    assert set(images.sources) == sources
    (found,) = images.findings
    assert found.kind == "class-word-above-both"


def test_a_refusal_says_which_folder_to_rename_for_which_class(folder, make_png):
    root = folder({f"{name}/1.png": make_png(k) for k, name in enumerate(("deepfake/0_real", "deepfake", "real"))})
    with pytest.raises(DataError) as caught:
        load_images(root)
    assert "rename 'deepfake' if these images are real, '0_real' if they are fake, or list" in str(caught.value)
    (root / "deepfake").rename(root / "df")
    with pytest.raises(DataError, match="none is fake"):
        load_images(root)
