"""Weights from timm's hub, which is played by networks that timm makes at random, and from files of timm's."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from robustbench_df.config import ModelConfig
from robustbench_df.errors import ModelError
from robustbench_df.models import architectures, pretrained
from robustbench_df.models.architectures import CLASSIFIER_STD
from robustbench_df.models.detector import IMAGENET_MEAN, IMAGENET_STD, Detector
from robustbench_df.models.pretrained import head_names
from robustbench_df.models.zoo import PRETRAINED_SIDE, build_detector, head_parameters
from robustbench_df.train.state import load_checkpoint, save_model_config, save_weights, snapshot

SIZE = (32, 32)
VIT = "vit_base_patch16_224"


def built(name: str, **settings: Any) -> tuple[Detector, ModelConfig]:
    return build_detector(ModelConfig(name=name, **settings), SIZE)


def head_shapes(detector: Detector) -> list[tuple[int, ...]]:
    return [tuple(p.shape) for p in head_parameters(detector)]


def scaling(detector: Detector) -> tuple[list[float], list[float]]:
    mean, std = ([round(float(x), 4) for x in values.flatten()] for values in (detector.mean, detector.std))
    return mean, std


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Tensor]]:
    """What the hub has handed out, by name; transformers are of one block, here and in the registry."""
    given: dict[str, dict[str, Tensor]] = {}

    def fetched(name: str) -> torch.nn.Module:
        model = timm.create_model(name, pretrained=False, num_classes=2, **_shallow(name))
        if name == VIT:
            model.pos_embed.data[:, 1:] = torch.arange(model.embed_dim)  # the same at every place
        given[name] = model.state_dict()
        return model

    monkeypatch.setattr(pretrained, "hub_reachable", lambda _patience: True)
    monkeypatch.setattr(pretrained, "_fetched", fetched)
    make = architectures.timm_network
    monkeypatch.setattr(
        architectures, "timm_network", lambda name, *rest, **more: make(name, *rest, **more, **_shallow(name))
    )
    return given


def _shallow(name: str) -> dict[str, int]:
    return {"depth": 1} if name == VIT else {}


def test_a_hub_that_is_slow_to_answer_is_given_up_by_auto_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def create(name: str, **settings: Any) -> torch.nn.Module:
        return real(name, **{**settings, "pretrained": False})

    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", create)
    monkeypatch.setattr(pretrained, "hub_reachable", lambda patience: patience > 1)
    assert pretrained.pretrained_state("resnet18", "required", "resnet18") is not None
    with pytest.warns(UserWarning, match="cannot be reached"):
        assert pretrained.pretrained_state("resnet18", "auto", "resnet18") is None


def test_whatever_keeps_the_hubs_weights_away_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class ProxyError(Exception):
        """As of huggingface_hub's HTTP client: neither an OSError nor a ValueError."""

    def refused(_name: str) -> torch.nn.Module:
        raise ProxyError("407 Proxy Authentication Required\nand more")

    monkeypatch.setattr(pretrained, "_fetched", refused)
    monkeypatch.setattr(pretrained, "hub_reachable", lambda _patience: True)
    with pytest.raises(ModelError, match=r"^no pretrained weights for resnet18: 407 Proxy .* Required; connect"):
        built("resnet18", pretrained="required")
    with pytest.warns(UserWarning, match="407 Proxy"):
        assert built("resnet18", pretrained="auto")[1].stem == "small"


def test_the_quick_look_goes_where_the_environment_sends_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as open_one, socket.socket() as closed_one:
        closed_one.bind(("127.0.0.1", 0))  # it does not listen
        answering, silent = (f"http://127.0.0.1:{s.getsockname()[1]}" for s in (open_one, closed_one))

        def reached(**environment: str) -> bool:
            with monkeypatch.context() as patch:
                for name in [n for n in os.environ if n.startswith("HF_") or n.lower().endswith("_proxy")]:
                    patch.delenv(name)
                for name, value in environment.items():
                    patch.setenv(name, value)
                patch.setattr(pretrained, "HUB", silent.replace("http:", "https:"))
                return pretrained.hub_reachable.__wrapped__(pretrained.PATIENCE["auto"])

        assert not reached()
        assert reached(HF_ENDPOINT=answering)
        assert reached(HTTPS_PROXY=answering)
        assert reached(HTTPS_PROXY=answering.removeprefix("http://"))
        assert not reached(HTTPS_PROXY=answering, NO_PROXY="127.0.0.1")
        assert not reached(HF_ENDPOINT="https://127.0.0.1:nowhere")


def test_position_embeddings_follow_the_size_of_the_enlarged_image(hub: dict[str, dict[str, Tensor]]) -> None:
    detector, resolved = built(VIT, pretrained="required")
    assert (resolved.stem, resolved.input_size) == ("native", PRETRAINED_SIDE)
    theirs, ours, places = hub[VIT]["pos_embed"], detector.net.pos_embed.data, (PRETRAINED_SIDE // 16) ** 2
    assert theirs.shape == (1, 1 + 14**2, 768)
    assert ours.shape == (1, 1 + places, 768)
    assert torch.equal(ours[:, 0], theirs[:, 0])  # the class token has no place
    assert torch.allclose(ours[:, 1:], torch.arange(768.0).expand(1, places, 768), rtol=1e-4)
    assert torch.equal(detector.net.blocks[0].mlp.fc1.weight, hub[VIT]["blocks.0.mlp.fc1.weight"])
    assert detector.eval()(torch.rand(2, 3, *SIZE)).shape == (2, 2)


def test_channel_statistics_are_those_of_the_weights_and_kept_with_them(
    hub: dict[str, dict[str, Tensor]], tmp_path: Path
) -> None:
    half = ([0.5] * 3, [0.5] * 3)
    imagenet = (list(IMAGENET_MEAN), list(IMAGENET_STD))
    detector, resolved = built(VIT, pretrained="required")
    assert scaling(detector) == half
    assert scaling(built(VIT, pretrained="never")[0]) == imagenet
    assert scaling(built("resnet18", pretrained="required")[0]) == imagenet
    save_model_config(tmp_path, resolved, SIZE)
    save_weights(tmp_path / "base.safetensors", snapshot(detector))
    kept = load_checkpoint(tmp_path, "base")
    assert scaling(kept) == half
    x = torch.rand(2, 3, *SIZE)
    assert torch.equal(kept(x), detector.eval()(x))


def test_the_classifier_begins_as_ours_under_pretrained_weights(hub: dict[str, dict[str, Tensor]]) -> None:
    detector, _ = built("efficientnet_b0", pretrained="required")
    net: Any = detector.net
    assert torch.equal(net.conv_stem.weight, hub["efficientnet_b0"]["conv_stem.weight"])
    assert float(hub["efficientnet_b0"]["classifier.weight"].std()) > 10 * CLASSIFIER_STD
    assert float(net.classifier.weight.detach().std()) == pytest.approx(CLASSIFIER_STD, rel=0.1)


def test_a_file_of_timms_native_weights_is_taken_for_small_images(tmp_path: Path) -> None:
    theirs = timm.create_model("resnet18", pretrained=False).state_dict()
    path = tmp_path / "resnet18.safetensors"
    save_file(theirs, path)
    detector, resolved = built("resnet18", weights=str(path))
    net: Any = detector.net
    assert (resolved.stem, resolved.input_size) == ("native", PRETRAINED_SIDE)
    assert torch.equal(net.conv1.weight, theirs["conv1.weight"])
    assert net.fc.weight.shape == (2, 512)  # theirs tells a thousand classes
    assert detector.eval()(torch.rand(2, 3, *SIZE)).shape == (2, 2)


@pytest.mark.parametrize(("classes", "side"), [(10, None), (1000, PRETRAINED_SIDE)])
def test_a_file_for_a_network_without_small_stem_enlarges_where_its_classifier_is_imagenets(
    classes: int, side: int | None, tmp_path: Path
) -> None:
    path = tmp_path / "timm.safetensors"
    save_file(timm.create_model("mobilenetv3_small_050", num_classes=classes).state_dict(), path)
    detector, resolved = built("timm:mobilenetv3_small_050", weights=str(path))
    assert resolved.input_size == detector.input_size == side
    assert built("timm:mobilenetv3_small_050", weights=str(path), input_size=48)[1].input_size == 48


@pytest.mark.parametrize("name", ["image_statistics", "timm:caformer_s18"])
def test_a_file_of_two_classes_enlarges_nothing_however_wide_its_classifier_is(name: str, tmp_path: Path) -> None:
    path = tmp_path / "ours.safetensors"
    save_file(snapshot(built(name, pretrained="never")[0]), path)
    assert built(name, weights=str(path))[1].input_size is None


def test_a_file_that_fits_the_small_stem_gets_it(tmp_path: Path) -> None:
    ours, _ = built("resnet18", pretrained="never")
    path = tmp_path / "small.safetensors"
    save_file(snapshot(ours), path)
    detector, resolved = built("resnet18", weights=str(path))
    assert (resolved.stem, resolved.input_size) == ("small", None)
    x = torch.rand(2, 3, *SIZE)
    assert torch.equal(detector.eval()(x), ours.eval()(x))


@pytest.mark.usefixtures("hub")
def test_a_file_without_statistics_of_its_own_has_those_of_its_architecture(tmp_path: Path) -> None:
    model = timm.create_model(VIT, pretrained=False, depth=1)
    path = tmp_path / "vit.safetensors"
    save_file(model.state_dict(), path)
    assert scaling(built(VIT, weights=str(path))[0])[0] == [0.5] * 3
    own = {"mean": torch.full((1, 3, 1, 1), 0.25), **{f"net.{k}": v for k, v in model.state_dict().items()}}
    save_file(own, path)
    assert scaling(built(VIT, weights=str(path))[0])[0] == [0.25] * 3


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("mlp", [(2, 128), (2,)]),
        ("vgg6", [(2, 256), (2,)]),
        ("image_statistics", [(2, 20480), (2,)]),
        ("resnet_se_small", [(96, 192), (96,), (2, 96), (2,)]),
        ("convnext_tiny", [(2, 768), (2,)]),
        ("timm:swin_tiny_patch4_window7_224", [(2, 768), (2,)]),
    ],
)
def test_the_head_is_the_classifier_and_nothing_else(name: str, shapes: list[tuple[int, ...]]) -> None:
    with torch.device("meta"):
        assert head_shapes(built(name, pretrained="never")[0]) == shapes


def test_every_registered_model_tells_its_head() -> None:
    with torch.device("meta"):
        for name in architectures.MODELS:
            heads = head_names(built(name, pretrained="never")[0].net)
            assert len(heads) == 1 or heads == ("scale.", "head."), (
                name
            )  # statistics are brought to scale as they learn


def test_networks_that_tell_no_head_cannot_be_frozen() -> None:
    with pytest.raises(ModelError, match="freeze_backbone=false"):
        head_parameters(Detector(torch.nn.Conv2d(3, 2, 1)))


def test_blocks_that_are_called_layers_must_be_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "swin.safetensors"
    whole = timm.create_model("swin_tiny_patch4_window7_224", pretrained=False, num_classes=2).state_dict()
    save_file({k: v for k, v in whole.items() if not k.startswith("layers.")}, path)
    with pytest.raises(ModelError, match=r"do not fit .*first net\.layers\.0"):
        built("timm:swin_tiny_patch4_window7_224", weights=str(path))


def test_an_mlp_of_another_image_size_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "mlp.safetensors"
    save_file(snapshot(build_detector(ModelConfig(name="mlp"), (16, 16))[0]), path)
    with pytest.raises(ModelError, match="do not fit mlp: 1 tensors differ"):
        built("mlp", weights=str(path))
