"""Scoring streams, keeps order, and leaves the detector as it was."""

from __future__ import annotations

import numpy as np
import torch

from robustbench_df.config import ModelConfig
from robustbench_df.evaluate import Condition, predict_logits
from robustbench_df.models.zoo import build_detector
from tests.conftest import learnable_set


def test_scores_follow_the_index_and_not_the_batch(monkeypatch: object) -> None:
    images = learnable_set(60)
    detector, _ = build_detector(ModelConfig(name="resnet_se_small", pretrained="never"), images.size)
    detector.train()
    before = {k: v.clone() for k, v in detector.state_dict().items()}
    index = np.random.default_rng(0).permutation(60)
    seen: list[int] = []
    whole = predict_logits(detector, images, index, progress=seen.append)
    assert sum(seen) == 60
    assert detector.training
    assert all(torch.equal(v, before[k]) for k, v in detector.state_dict().items())
    for k in (0, 7, 31):
        one = predict_logits(detector, images, index[k : k + 1])
        assert np.allclose(one[0], whole[k], atol=1e-5)


def test_views_average_probabilities() -> None:
    images = learnable_set(10)
    detector, _ = build_detector(ModelConfig(name="resnet_se_small", pretrained="never"), images.size)
    index = np.arange(10)
    plain = predict_logits(detector, images, index)
    mirrored = predict_logits(detector, images, index, transform=lambda _d, x, _y: x.flip(3))
    both = predict_logits(detector, images, index, views=lambda x: [x, x.flip(3)])

    def softmax(z: np.ndarray) -> np.ndarray:
        e = np.exp(z - z.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    assert np.allclose(np.exp(both), (softmax(plain) + softmax(mirrored)) / 2, atol=1e-5)


def test_conditions_have_stable_names_and_attack() -> None:
    assert Condition().name == "clean"
    assert Condition("fgsm", 0.05).name == "fgsm-linf-0.05"
    assert Condition().transform() is None
    transform = Condition("fgsm", 0.1).transform()
    assert transform is not None
    images = learnable_set(8)
    detector, _ = build_detector(ModelConfig(name="resnet_se_small", pretrained="never"), images.size)
    x = torch.full((2, 3, 16, 16), 0.5)
    changed = (transform(detector.eval(), x, torch.tensor([0, 1])) - x).abs()
    assert abs(float(changed.max()) - 0.1) < 1e-6
