"""Label noise: exact where probabilities are exact, honest where the classifier is not good enough."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robustbench_df.audit.light import folds_of, light_classifier, light_features, out_of_fold
from robustbench_df.audit.noise import confident_joint, estimate, flip_joint, label_noise, suspects, wrong_share
from robustbench_df.data.imageset import ImageSet, image_set_from_arrays
from robustbench_df.errors import DataError
from robustbench_df.metrics.scores import probability
from tests.audit.runs import write_run
from tests.conftest import learnable_set


def flipped(images: ImageSet, share: float, seed: int = 0) -> tuple[ImageSet, np.ndarray]:
    rows = np.random.default_rng(seed).choice(len(images), round(share * len(images)), replace=False)
    labels = images.labels.copy()
    labels[rows] = 1 - labels[rows]
    return image_set_from_arrays(images.data, labels), rows


def test_exact_probabilities_give_the_exact_joint() -> None:
    truth = np.arange(1000) % 2
    labels = truth.copy()
    labels[:30:2] = 1  # fifteen reals are called fake
    labels[901:921:2] = 0  # ten fakes are called real
    p = np.where(truth == 1, 0.97, 0.03)
    joint = confident_joint(p, labels)
    assert joint * 1000 == pytest.approx(np.array([[485, 10], [15, 490]]))
    assert wrong_share(joint) == pytest.approx(0.025)
    assert set(suspects(p, labels, joint)) == set(np.flatnonzero(labels != truth))


def test_suspects_come_worst_first() -> None:
    labels = np.repeat([0, 1], 50)
    p = np.where(labels == 1, 0.9, 0.1)
    p[[3, 7, 60]] = [0.93, 0.99, 0.05]
    assert suspects(p, labels, confident_joint(p, labels)).tolist() == [7, 60, 3]


def test_no_contradiction_no_noise() -> None:
    labels = np.repeat([0, 1], 100)
    p = np.where(labels == 1, 0.8, 0.2)
    assert wrong_share(confident_joint(p, labels)) == 0
    found = estimate(p, labels, np.arange(200))
    assert found.low == pytest.approx(0, abs=1e-4)
    assert found.value < 1e-4
    assert 0 < found.high < 0.03  # none of 200 is not none at all
    for joint in (confident_joint, flip_joint):
        with pytest.raises(DataError, match="needs real and fake"):
            joint(np.full(5, 0.5), np.zeros(5, int))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        truth = rng.integers(0, 2, 800)
        labels = np.where(rng.random(800) < 0.05, 1 - truth, truth)
        p = probability(rng.normal(np.where(truth == 1, 4, -4), 1.0))
        found = estimate(p, labels, np.arange(800))
        covered += found.low <= 0.05 <= found.high
    assert covered >= 10


def test_three_percent_of_flipped_labels_are_found_and_named() -> None:
    images, rows = flipped(learnable_set(1600), 0.03)
    found = label_noise(images)
    assert found.severity == "warn"
    assert float(found.figures["share_low"]) <= 0.03 <= float(found.figures["share_high"])
    planted = {str(name) for name in images.ids[rows]}
    assert len(planted & set(found.images)) >= 0.9 * len(planted)
    assert set(found.images[:20]) <= planted
    assert found.figures["source"] == "the built-in light classifier"


def test_a_clean_set_passes_and_names_nobody() -> None:
    found = label_noise(learnable_set(600))
    assert found.severity == "pass"
    assert found.images == ()
    assert float(found.figures["auc"]) > 0.95


def weak(truth: np.ndarray, seed: int = 0) -> np.ndarray:
    """P(fake) of a classifier with an AUROC of .93 on the true classes."""
    return probability(np.random.default_rng(seed).normal(np.where(truth == 1, 1.5, -1.5), 1.4))


@pytest.mark.parametrize("rates", [(0.0, 0.0), (0.03, 0.03), (0.1, 0.1), (0.08, 0.0)])
def test_a_weak_classifiers_own_errors_are_not_taken_for_wrong_labels(rates: tuple[float, float]) -> None:
    truth, off = np.arange(8000) % 2, []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        labels = np.where(rng.random(8000) < np.array(rates)[truth], 1 - truth, truth)
        p, share = weak(truth, seed), float((labels != truth).mean())
        assert wrong_share(confident_joint(p, labels)) > share + 0.02  # what confident learning alone would claim
        joint = flip_joint(p, labels)
        off.append((wrong_share(joint) - share, *(joint[1 - k, k] / joint[:, k].sum() - rates[k] for k in (0, 1))))
    assert np.abs(np.mean(off, axis=0)).max() < 0.01


@pytest.mark.real
def test_flipped_labels_of_real_pictures(real_data: Path) -> None:
    """CIFAKE's labels are right by construction; of 3% flipped ones the share is told and most are named."""
    from robustbench_df.data.sources import load_images

    images = load_images(real_data / "cifake-12k.zip").subset(np.arange(0, 12000, 2))
    assert label_noise(images).severity == "pass"
    spoiled, rows = flipped(images, 0.03)
    found = label_noise(image_set_from_arrays(spoiled.data, spoiled.labels, ids=list(images.ids)))
    assert found.severity == "warn"
    assert float(found.figures["share_low"]) < 0.03 < float(found.figures["share_high"])
    planted = {str(name) for name in images.ids[rows]}
    assert sum(name in planted for name in found.images) >= 35


def test_where_nothing_can_be_learnt_no_label_is_called_wrong() -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, (600, 3, 16, 16)).astype(np.uint8)
    found = label_noise(image_set_from_arrays(data, rng.permutation(np.arange(600) % 2)))
    assert found.severity == "not run"
    assert "too little to judge" in found.detail


def test_folds_keep_twins_and_groups_together() -> None:
    images = learnable_set(100)
    data = np.concatenate([images.data, images.data])
    groups = [f"g{k // 7}" for k in range(100)] + [""] * 100
    twice = image_set_from_arrays(data, np.tile(images.labels, 2), groups=groups)
    fold = folds_of(twice, np.arange(200))
    assert set(fold) == set(range(5))
    assert (fold[:100] == fold[100:]).all()
    assert all(len(set(fold[:100][np.arange(100) // 7 == g])) == 1 for g in range(15))


def test_probabilities_are_out_of_fold() -> None:
    """Labels that are pure chance cannot be predicted, though a classifier could learn them by heart."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(300, 280)), rng.integers(0, 2, 300).astype(np.int8)
    p = out_of_fold(x, labels, np.arange(300) % 5, light_classifier)
    assert 0.4 < ((p >= 0.5) == labels).mean() < 0.6
    assert (light_classifier().fit(x, labels).predict(x) == labels).mean() > 0.95


def test_features_are_each_images_own() -> None:
    images = learnable_set(20, size=33)
    all_of_them = light_features(images, np.arange(20))
    alone = light_features(images, np.array([7]))
    np.testing.assert_allclose(all_of_them[7], alone[0], rtol=1e-4, atol=1e-4)
    assert np.isfinite(all_of_them).all()


@pytest.mark.parametrize("folds", [1, 3])
def test_a_runs_predictions_are_used_where_it_had_not_seen_the_image(folds: int, tmp_path: Path) -> None:
    images = learnable_set(2000)
    run = write_run(tmp_path / "run", images, folds)
    found = label_noise(images, run)
    assert found.figures["source"] == "run 'run'"
    judged = run.split["part"] == "cal" if folds > 1 else run.split["part"] != "train"
    assert found.figures["n"] == judged.sum()


def test_too_few_images_are_not_run() -> None:
    found = label_noise(learnable_set(40))
    assert found.severity == "not run"
    assert "too few" in found.detail
