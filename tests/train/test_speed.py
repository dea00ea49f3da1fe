"""The probe picks the fastest of what is allowed, and remembers it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from robustbench_df.config import ModelConfig, SpeedConfig
from robustbench_df.models.detector import Detector
from robustbench_df.models.zoo import build_detector
from robustbench_df.train import speed
from robustbench_df.train.convolution import Conv2d
from robustbench_df.train.speed import Setting, prepare, setting_for, training_rate

SIZE = (16, 16)


def build() -> Detector:
    return build_detector(ModelConfig(name="resnet_se_small", pretrained="never"), SIZE)[0]


def test_the_fastest_candidate_wins_and_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fake_rate(_detector: Detector, _size: Any, _batch: int, setting: Setting, **_: Any) -> float:
        asked.append(f"{setting.precision}/{setting.memory_format}")
        return {"bf16/channels_last": 10.0, "fp32/contiguous": 30.0}.get(asked[-1], 20.0)

    monkeypatch.setattr(speed, "training_rate", fake_rate)
    arguments = (build, SIZE, 8, SpeedConfig(device="cpu"), {"name": "x"}, tmp_path)
    chosen = setting_for(*arguments)
    assert (chosen.precision, chosen.memory_format) == ("fp32", "contiguous")
    assert chosen.measured is not None
    assert len(chosen.measured) == len(asked) == 4
    assert setting_for(*arguments) == chosen
    assert len(asked) == 4  # remembered, not measured again
    assert setting_for(build, SIZE, 8, SpeedConfig(device="cpu:0"), {"name": "x"}, tmp_path).device == "cpu:0"
    assert len(asked) == 4  # nor of another device of the same kind, which is then the one that trains
    setting_for(build, SIZE, 8, SpeedConfig(device="cpu"), {"name": "y"}, tmp_path)
    assert len(asked) == 8  # another model is another question


def test_what_is_close_is_timed_again_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine is slow at first: what is timed first must not lose by it."""
    monkeypatch.setattr(speed, "training_rate", lambda *a, **_: {"channels_last": 9.0}.get(a[3].memory_format, 10.0))
    asked: list[str] = []

    def fake_stepper(_detector: Detector, _size: Any, _batch: int, setting: Setting) -> Any:
        def step() -> float:
            asked.append(setting.memory_format)
            return {"channels_last": 0.8, "contiguous": 1.0}[setting.memory_format]

        return step

    monkeypatch.setattr(speed, "_stepper", fake_stepper)
    chosen = setting_for(build, SIZE, 8, SpeedConfig(device="cpu", precision="fp32", threads=1), {})
    assert chosen.memory_format == "channels_last"
    assert chosen.measured == {"fp32/channels_last": 10.0, "fp32/contiguous": 8.0}
    assert asked[:4] == ["channels_last", "contiguous"] * 2


def test_steps_that_fetch_memory_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([t for step in range(speed.WARM_UP + 2) for t in (0.0, 5.0 if step < speed.WARM_UP else 0.5)])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    assert training_rate(build(), SIZE, 4, Setting(), 2) == 8.0


def test_a_hopeless_candidate_is_given_up_after_two_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 5.0, 0.0, 2.0])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    assert training_rate(build(), SIZE, 4, Setting(), 2, give_up_below=3.0) == 2.0


def test_a_probe_of_large_images_takes_few_and_halves_what_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []

    def rate(_detector: Detector, _size: Any, batch: int, _setting: Setting, **_: Any) -> float:
        taken.append(batch)
        if batch > 5:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return 1.0

    monkeypatch.setattr(speed, "training_rate", rate)
    monkeypatch.setattr(speed, "_fastest", lambda _build, _size, _batch, some, _rates: some[0])
    config = SpeedConfig(device="cpu", precision="fp32", threads=1)
    for size, asked, expected in (
        ((32, 32), 64, [64, 32, 16, 8, 4, 4]),
        ((224, 224), 64, [4, 4]),
        ((64, 64), 3, [3, 3]),
    ):
        setting_for(build, size, asked, config, {})
        assert taken == expected
        taken.clear()


def test_what_is_fixed_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "training_rate", lambda *_, **__: pytest.fail("probed"))
    config = SpeedConfig(device="cpu", precision="fp32", memory_format="channels_last", threads=1)
    assert setting_for(build, SIZE, 8, config, {}) == Setting("cpu", "fp32", "channels_last", 1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_rate_is_measured_without_touching_the_global_stream(precision: str) -> None:
    assert training_rate(build(), SIZE, 4, Setting(precision=precision), 2) > 0
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    setting_for(build, SIZE, 4, SpeedConfig(device="cpu"), {})
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(("native", "half"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_is_asked_for_the_half_precision_that_it_has(
    native: bool, half: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    candidates = speed._candidates(Setting("cuda", "auto", "contiguous"))
    assert [candidate.precision for candidate in candidates] == [half, "fp32"]


@pytest.mark.parametrize("own", [True, False])
def test_the_configuration_says_whose_gradients_convolutions_have(own: bool) -> None:
    config = SpeedConfig(device="cpu", precision="fp32", memory_format="contiguous", threads=1, own_gradients=own)
    setting = setting_for(build, SIZE, 8, config, {})
    detector = build()
    prepare(detector, setting)
    assert any(type(part) is Conv2d for part in detector.modules()) == own
