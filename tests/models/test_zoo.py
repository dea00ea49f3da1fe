"""The registry: every name builds, answers with two logits, and its claims hold."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from robustbench_df.config import ModelConfig
from robustbench_df.errors import ModelError
from robustbench_df.models import pretrained
from robustbench_df.models.architectures import MODELS
from robustbench_df.models.zoo import architecture, build_detector, head_parameters, pixels_seen

SIZE = (32, 32)
LIGHT = [
    "convnext_tiny",
    "efficientnet_b0",
    "resnet_se",
    "resnet_se_small",
    "vgg6",
    "resnet18",
    "densenet121",
    "image_statistics",
    "mlp",
]
ALL = ["convnext_base", "efficientnet_b2", "efficientnet_b3", "efficientnet_b4", "resnet50", "vit_base_patch16_224"]


def config(name: str, **extra: object) -> ModelConfig:
    return ModelConfig.model_validate({"name": name, "pretrained": "never", **extra})


@pytest.mark.parametrize("name", LIGHT)
def test_light_models_answer_with_two_finite_logits(name: str) -> None:
    detector, _ = build_detector(config(name), SIZE)
    with torch.no_grad():
        logits = detector.eval()(torch.rand(2, 3, *SIZE))
    assert logits.shape == (2, 2)
    assert torch.isfinite(logits).all()
    assert logits[0].ne(logits[1]).any()  # the image matters


def test_every_registered_model_builds_on_the_meta_device() -> None:
    """Shapes without memory: the large ones too, with their small stems."""
    with torch.device("meta"):
        for name in (*ALL, "inception_resnet_v2"):
            detector, _ = build_detector(config(name), SIZE)
            assert detector.eval()(torch.empty(2, 3, *SIZE, device="meta")).shape == (2, 2)
    assert set(LIGHT + ALL) | {"inception_resnet_v2"} == set(MODELS)


def _parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_resnet_se_has_the_size_it_says() -> None:
    assert _parameters(build_detector(config("resnet_se"), SIZE)[0]) == 11_196_666
    assert 1_000_000 < _parameters(build_detector(config("resnet_se_small"), SIZE)[0]) <= 2_100_000


def test_large_images_meet_a_stem_that_divides_them_and_a_baseline_that_stays_small() -> None:
    with torch.device("meta"):
        for size, last in ((32, 4), (64, 8), (128, 4), (224, 7)):
            detector, resolved = build_detector(config("resnet_se"), (size, size))
            assert resolved.stem == ("small" if size <= 64 else "native")
            net = detector.net
            assert net.stages(net.stem(torch.empty(2, 3, size, size))).shape[2:] == (last, last)
        assert _parameters(build_detector(config("mlp"), (224, 224))[0]) < 2_000_000


def test_small_images_keep_the_plain_stem_of_resnet_se_whatever_it_was_called() -> None:
    """Checkpoints from before it had another call it native."""
    small, native = (build_detector(config("resnet_se_small", stem=stem), SIZE)[0] for stem in ("small", "native"))
    native.load_state_dict(small.state_dict())
    x = torch.rand(2, 3, *SIZE)
    assert torch.equal(native.eval()(x), small.eval()(x))


@pytest.mark.parametrize(
    ("name", "size", "extra", "side"),
    [
        ("vgg6", 32, {}, 32),
        ("vgg6", 300, {}, 224),
        ("mlp", 300, {}, 32),
        ("mlp", 16, {}, 16),
        ("efficientnet_b0", 32, {"pretrained": "required"}, 96),
        ("efficientnet_b0", 200, {"pretrained": "required"}, 200),
        ("vit_base_patch16_224", 32, {}, 32),
        ("inception_resnet_v2", 32, {}, 139),
        ("vgg6", 32, {"input_size": 48}, 48),
    ],
)
def test_what_a_network_sees_is_known_without_building_it(name: str, size: int, extra: dict, side: int) -> None:
    assert pixels_seen(config(name, **extra), (size, size)) == side**2


@pytest.mark.parametrize("name", ["convnext_tiny", "efficientnet_b0", "resnet18", "densenet121"])
def test_the_small_stem_keeps_more_of_a_small_image(name: str) -> None:
    def last_map(stem: str) -> int:
        detector, resolved = build_detector(config(name, stem=stem), SIZE)
        assert resolved.stem == stem
        with torch.no_grad():
            return int(detector.eval().net.forward_features(torch.rand(1, 3, *SIZE)).shape[-1])

    assert last_map("native") == 1
    assert last_map("small") >= 2


def test_auto_resolves_and_a_resolved_config_rebuilds_the_same() -> None:
    small, resolved = build_detector(config("resnet18"), SIZE)
    assert resolved.stem == "small"
    again, _ = build_detector(resolved, SIZE)
    assert [p.shape for p in again.parameters()] == [p.shape for p in small.parameters()]
    _, large = build_detector(config("resnet18"), (224, 224))
    assert (large.stem, large.input_size) == ("native", None)
    _, huge = build_detector(config("resnet18"), (1024, 768))
    assert huge.input_size == 224


def test_the_recipe_head_of_resnet18() -> None:
    detector, _ = build_detector(config("resnet18", head="recipe"), SIZE)
    shapes = [tuple(p.shape) for p in head_parameters(detector)]
    assert shapes == [(128, 512), (128,), (2, 128), (2,)]


def test_any_timm_model_and_near_misses() -> None:
    detector, _ = build_detector(config("timm:mobilenetv3_small_050"), SIZE)
    assert detector.eval()(torch.rand(2, 3, *SIZE)).shape == (2, 2)
    with pytest.raises(ModelError, match="did you mean 'resnet_se'"):
        architecture("resnet_see")
    with pytest.raises(ModelError, match=r"timm has no model .resnet18x.; near: "):
        architecture("timm:resnet18x")


def test_timms_efficientnets_begin_without_an_opinion() -> None:
    """timm's own classifier of this one answers ±10 where it has two outputs."""
    detector, _ = build_detector(config("timm:tf_efficientnet_lite0", pretrained="never"), SIZE)
    x = torch.rand(8, 3, *SIZE)
    with torch.no_grad():
        assert float(detector.train()(x).abs().max()) < 1


def test_a_misspelt_tag_of_timms_weights_is_one_line_with_those_there_are() -> None:
    told = r"^timm's resnet18 has no weights 'a1_in1kk' \(did you mean 'a1_in1k'\?\); choose from a1_in1k, a2_in1k"
    with pytest.raises(ModelError, match=told):
        architecture("timm:resnet18.a1_in1kk")
    assert architecture("timm:resnet18.a1_in1k").timm_name == "resnet18.a1_in1k"


def test_offline_auto_falls_back_within_a_second_and_required_gives_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://192.0.2.1")  # TEST-NET-1 of RFC 5737: never answers
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(pretrained, "hub_reachable", pretrained.hub_reachable.__wrapped__)
    architecture("timm:resnet18")  # timm's import is not what is timed
    start = time.perf_counter()
    with pytest.warns(UserWarning, match=r"no pretrained weights \(192\.0\.2\.1 cannot be reached"):
        state = pretrained.pretrained_state("resnet18", "auto", "mine")
    assert state is None
    assert time.perf_counter() - start < 1.5
    monkeypatch.setitem(pretrained.PATIENCE, "required", 1.1)
    with pytest.raises(ModelError, match=r"^no pretrained weights for resnet18: 192\.0\.2\.1 .*--pretrained never"):
        pretrained.pretrained_state("resnet18", "required", "mine")
    with pytest.raises(ModelError, match=r"^mlp has no pretrained weights"):
        build_detector(config("mlp", pretrained="required"), SIZE)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_weights_from_a_file(tmp_path: Path, suffix: str) -> None:
    source, _ = build_detector(config("resnet_se_small"), SIZE)
    path = tmp_path / f"weights{suffix}"
    state = {f"module.{k}": v.contiguous() for k, v in source.net.state_dict().items()}
    if suffix == ".pth":
        torch.save({"state_dict": state}, path)
    else:
        save_file(state, path)
    loaded, resolved = build_detector(config("resnet_se_small", weights=str(path)), SIZE)
    x = torch.rand(2, 3, *SIZE)
    assert torch.equal(loaded.eval()(x), source.eval()(x))
    assert resolved.weights is None  # the checkpoint, not the file, is what a rebuild loads


def test_weights_that_do_not_fit_or_hide_code(tmp_path: Path) -> None:
    other, _ = build_detector(config("resnet18"), SIZE)
    path = tmp_path / "other.safetensors"
    save_file({k: v.contiguous() for k, v in other.net.state_dict().items()}, path)
    with pytest.raises(ModelError, match="do not fit resnet_se_small"):
        build_detector(config("resnet_se_small", weights=str(path)), SIZE)
    with pytest.raises(ModelError, match="no weight file"):
        build_detector(config("resnet_se_small", weights=str(tmp_path / "absent.pth")), SIZE)

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (str(tmp_path / "executed"),))

    trap = tmp_path / "trap.pth"
    torch.save({"weights": Trap()}, trap)
    with pytest.raises(ModelError, match="never run"):
        build_detector(config("resnet_se_small", weights=str(trap)), SIZE)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "junk", [b"junk", b"", b"hello world\n", b"PK\x03\x04abc", b"\x80\x02.", bytes(range(128, 256))]
)
def test_junk_is_one_line_and_never_advice_to_run_it(tmp_path: Path, junk: bytes) -> None:
    path = tmp_path / "junk.pth"
    path.write_bytes(junk)
    with pytest.raises(ModelError, match=r"damaged, no file of torch\.save, or .*; save a state_dict") as caught:
        pretrained.read_weights(path)
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)
