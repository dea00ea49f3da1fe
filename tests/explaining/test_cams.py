"""CAMs: against a closed form, without a trace in the detector, and an ensemble's as the mean it is said to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from robustbench_df.errors import UsageError
from robustbench_df.explaining.cams import CAMS, Seen, blank, cam_maps, layers_of, randomised, verdict_maps, voices
from robustbench_df.models.detector import Detector, Ensemble
from robustbench_df.models.resnet_se import ResNetSE
from tests.conftest import Scarce

SIDE = 8


class Linear(nn.Module):
    """A 1×1 convolution, the mean over the image, a linear head: Grad-CAM of it can be written down."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.feature_info = [{"module": "stage", "num_chs": 5}]
        self.stage = nn.Conv2d(3, 5, 1)
        self.head = nn.Linear(5, 2)
        for values in self.parameters():
            values.data.copy_(torch.randn(values.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.stage(x).mean((2, 3)))
        return logits


def images(n: int = 6, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def by_hand(detector: Detector, x: Tensor, target: Tensor) -> np.ndarray:
    net = detector.net
    assert isinstance(net, Linear)
    with torch.no_grad():
        channels = (net.head.weight[1] - net.head.weight[0])[None, :] * torch.where(target == 1, 1, -1)[:, None]
        raw = (net.stage((x - detector.mean) / detector.std) * channels[..., None, None]).sum(1).clamp_min(0)
    low, high = raw.amin((1, 2), keepdim=True), raw.amax((1, 2), keepdim=True)
    found: np.ndarray = ((raw - low) / (high - low).clamp_min(1e-12)).numpy()
    return found


def test_gradcam_of_a_linear_head_is_the_closed_form() -> None:
    detector, x = Detector(Linear()).eval(), images()
    for target in (torch.ones(6, dtype=torch.int64), torch.tensor([0, 1, 0, 1, 0, 1])):
        np.testing.assert_allclose(cam_maps(detector, x, target), by_hand(detector, x, target), atol=1e-4)


def test_an_image_has_the_same_map_alone_and_in_a_batch() -> None:
    detector, x = Detector(ResNetSE(8)).eval(), torch.rand(5, 3, 32, 32)
    target = torch.tensor([0, 1, 1, 0, 1])
    together = cam_maps(detector, x, target)
    alone = np.concatenate([cam_maps(detector, x[k : k + 1], target[k : k + 1]) for k in range(5)])
    np.testing.assert_allclose(together, alone, atol=1e-3)
    assert together.shape == (5, 32, 32)


def test_where_memory_runs_out_fewer_images_are_mapped_at_a_time() -> None:
    detector, x = Detector(Linear()).eval(), images()
    target, net = torch.tensor([0, 1, 0, 1, 0, 1]), Scarce(Linear(), most=2)
    net.feature_info = [{"module": "net.stage", "num_chs": 5}]
    scarce = Detector(net).eval()
    np.testing.assert_allclose(cam_maps(scarce, x, target), cam_maps(detector, x, target), atol=1e-6)
    assert max(net.asked) == 6


@pytest.mark.parametrize("cam", CAMS)
def test_every_cam_gives_maps_between_0_and_1(cam: str) -> None:
    detector, x = Detector(ResNetSE(8)).eval(), torch.rand(4, 3, 32, 32)
    maps = cam_maps(detector, x, torch.tensor([0, 1, 0, 1]), cam)
    assert maps.dtype == np.float32
    assert (maps >= 0).all()
    lit = ~blank(maps)
    assert (maps[lit].max((1, 2)) == 1).all()
    assert lit.any()


def test_an_unknown_cam_is_named() -> None:
    with pytest.raises(UsageError, match="did you mean 'gradcam'"):
        cam_maps(Detector(Linear()), images(), torch.zeros(6), "gradcan")


def test_the_detector_is_left_as_it_was() -> None:
    detector = Detector(ResNetSE(8))
    detector.train()
    detector.net.head.requires_grad_(False)
    first = next(detector.parameters())
    first.grad = torch.ones_like(first)
    before = {name: values.clone() for name, values in detector.state_dict().items()}
    flags = [values.requires_grad for values in detector.parameters()]
    cam_maps(detector, torch.rand(3, 3, 32, 32), torch.ones(3, dtype=torch.int64))
    assert all(module.training for module in detector.modules())
    assert [values.requires_grad for values in detector.parameters()] == flags
    assert [values.grad is None for values in detector.parameters()] == [False, *[True] * (len(flags) - 1)]
    assert bool((first.grad == 1).all())
    assert all(torch.equal(before[name], values) for name, values in detector.state_dict().items())
    assert not any(module._forward_hooks for module in detector.modules())


class Broken(Linear):
    def forward(self, x: Tensor) -> Tensor:  # noqa: ARG002
        raise ValueError("not today")


def test_nor_is_anything_left_behind_by_an_error() -> None:
    detector = Detector(Broken())
    with pytest.raises(ValueError, match="not today"):
        cam_maps(detector, images(), torch.ones(6, dtype=torch.int64))
    assert all(values.requires_grad for values in detector.parameters())
    assert not any(module._forward_hooks for module in detector.modules())


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_map_that_says_nothing_is_blank_and_not_noise(value: float) -> None:
    detector, x = Detector(Linear()).eval(), images()
    with torch.no_grad():
        detector.net.stage.weight.fill_(value)  # type: ignore[union-attr, operator]
        detector.net.stage.bias.fill_(value)  # type: ignore[union-attr, operator]
    maps = cam_maps(detector, x, torch.ones(6, dtype=torch.int64))
    assert blank(maps).all()
    assert (maps == 0).all()


def pair(weights: list[float]) -> Ensemble:
    ensemble = Ensemble([Detector(Linear(1)), Detector(Linear(2))], weights)
    ensemble.eval()
    return ensemble


def test_an_ensembles_map_is_its_members_weighed_by_what_they_add_to_the_verdict() -> None:
    ensemble, x, target = pair([0.3, 0.7]), images(), torch.tensor([0, 1, 0, 1, 0, 1])
    members = [m for m in ensemble.members if isinstance(m, Detector)]
    with torch.no_grad():
        shares = [
            w * m(x).softmax(1)[torch.arange(6), target].numpy() for w, m in zip((0.3, 0.7), members, strict=True)
        ]
    total = sum(s[:, None, None] * cam_maps(m, x, target) for s, m in zip(shares, members, strict=True))
    assert isinstance(total, np.ndarray)
    np.testing.assert_allclose(cam_maps(ensemble, x, target), total / total.max((1, 2), keepdims=True), atol=1e-5)
    assert len(layers_of(ensemble, (SIDE, SIDE))) == 2


def test_a_member_may_be_the_mean_of_its_folds() -> None:
    folds, x, target = pair([0.5, 0.5]), images(), torch.tensor([0, 1, 0, 1, 0, 1])
    whole = Ensemble([folds, Detector(Linear(3))], [1, 0]).eval()
    assert isinstance(whole, Ensemble)
    np.testing.assert_allclose(cam_maps(whole, x, target), cam_maps(folds, x, target), atol=1e-6)
    assert len(layers_of(Ensemble([folds, Detector(Linear(3))]), (SIDE, SIDE))) == 3


def says_fake(logits: Tensor) -> Tensor:
    return (logits[:, 1] >= logits[:, 0]).long()


def test_a_verdict_is_mapped_in_the_forward_that_gives_it() -> None:
    ensemble, x = pair([0.3, 0.7]), images()
    seen = verdict_maps(ensemble, x, says_fake, "gradcam", {})
    with torch.no_grad():
        assert torch.allclose(seen.logits, ensemble(x), atol=1e-5)
    assert torch.equal(seen.verdict, says_fake(seen.logits))
    np.testing.assert_allclose(seen.maps, cam_maps(ensemble, x, seen.verdict), atol=1e-5)


def test_what_is_known_of_a_member_is_used_again_where_it_said_the_same() -> None:
    ensemble, x = pair([0.3, 0.7]), images()
    fresh = verdict_maps(ensemble, x, says_fake, "gradcam", {})
    member = ensemble.members[0]
    assert isinstance(member, Detector)
    own = verdict_maps(member, x, says_fake, "gradcam", {})
    flipped = own.verdict.clone()
    flipped[::2] = 1 - flipped[::2]
    mixed = Seen(own.logits, flipped, cam_maps(member, x, flipped))
    again = verdict_maps(ensemble, x, says_fake, "gradcam", {member: mixed})
    np.testing.assert_allclose(again.maps, fresh.maps, atol=1e-5)
    blank_maps = Seen(own.logits, fresh.verdict, np.zeros_like(own.maps))
    assert np.abs(verdict_maps(ensemble, x, says_fake, "gradcam", {member: blank_maps}).maps - fresh.maps).max() > 0.1


def test_a_member_without_weight_is_not_asked() -> None:
    ensemble = Ensemble([Detector(Linear(1)), Detector(Broken(2))], [1, 0])
    x, target = images(), torch.ones(6, dtype=torch.int64)
    alone = cam_maps(Detector(Linear(1)), x, target)
    np.testing.assert_allclose(cam_maps(ensemble, x, target), alone, atol=1e-6)
    assert len(layers_of(ensemble, (SIDE, SIDE))) == 1


def test_a_stacked_member_that_speaks_against_the_verdict_is_not_heard() -> None:
    members = [Detector(Linear(1)), Detector(Linear(2))]
    ensemble = Ensemble(members, coefficients=[2.0, -1.0], intercept=0.1)
    logits = torch.tensor([[[0.0, 3.0]], [[0.0, 1.0]]])  # both margins say fake; the second counts against
    np.testing.assert_allclose(voices(ensemble, logits, torch.tensor([1])), [[6.0], [0.0]])
    np.testing.assert_allclose(voices(ensemble, logits, torch.tensor([0])), [[0.0], [1.0]])


def test_randomised_weights_keep_their_scale_and_change_the_map() -> None:
    detector = Detector(ResNetSE(16)).eval()
    assert isinstance(detector, Detector)
    twin, again, other = randomised(detector, 0), randomised(detector, 0), randomised(detector, 0, draw=1)
    kernel, own = detector.net.stem[0].weight.detach(), twin.net.stem[0].weight.detach()  # type: ignore[union-attr, index]
    assert not torch.equal(kernel, own)
    assert float(own.std() / kernel.std()) == pytest.approx(1, abs=0.2)
    assert torch.equal(own, again.net.stem[0].weight)  # type: ignore[union-attr, index]
    assert not torch.equal(own, other.net.stem[0].weight)  # type: ignore[union-attr, index]
    x, target = torch.rand(2, 3, 32, 32), torch.ones(2, dtype=torch.int64)
    assert np.abs(cam_maps(detector, x, target) - cam_maps(twin, x, target)).max() > 0.1
