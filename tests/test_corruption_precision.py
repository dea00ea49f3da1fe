"""bf16 is taken where it is faster and says what fp32 says, of the very images that are judged; else fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from robustbench_df import corruption_precision as precision
from robustbench_df.corruption_grid import corrupt_run
from robustbench_df.corruption_plan import CorruptionCell, CorruptionPlan
from robustbench_df.corruption_precision import Choice, Network
from robustbench_df.pipeline import train_all
from robustbench_df.run import Run
from tests.conftest import Heard, learnable_set
from tests.runs import settings, write_folder

A, B, BOTH = ("a", "base"), ("b", "base"), ("ensemble", "base")
MEMBERS = {A: [A], B: [B], BOTH: [A, B]}
FASTER, SLOWER = {"fp32": 100.0, "bf16": 200.0}, {"fp32": 100.0, "bf16": 105.0}
SAME = (0.0, 0.0001)


@pytest.mark.parametrize(
    ("rates", "differences", "expected"),
    [
        ((FASTER, FASTER), (SAME, SAME, SAME), ("bf16", "bf16", "bf16")),
        ((FASTER, SLOWER), (SAME, SAME, SAME), ("bf16", "fp32", "bf16+fp32")),  # a tie is fp32's
        ((FASTER, FASTER), ((0.006, 0.001), SAME, SAME), ("fp32", "bf16", "bf16+fp32")),  # verdicts
        ((FASTER, FASTER), (SAME, (0.0, 0.02), SAME), ("bf16", "fp32", "bf16+fp32")),  # P(fake)
        ((FASTER, FASTER), (SAME, SAME, (0.006, 0.001)), ("fp32", "fp32", "fp32")),  # the ensemble's members with it
    ],
)
def test_bf16_must_be_faster_and_say_the_same(
    rates: tuple[dict[str, float], ...], differences: tuple[tuple[float, float], ...], expected: tuple[str, ...]
) -> None:
    pairs = [A, B, BOTH]
    measured = dict(zip((A, B), rates, strict=True)), dict(zip(pairs, differences, strict=True))
    found = precision.settle(pairs, MEMBERS, *measured, 400, "here")
    assert tuple(found[pair].text for pair in pairs) == expected
    assert found[BOTH].rates == {"a": rates[0], "b": rates[1]}
    assert found[A].said.startswith(expected[0])


def test_what_differs_is_counted_in_verdicts_and_in_probability() -> None:
    exact, fast = np.array([-1.0, 0.1, 2.0, 3.0]), np.array([-1.0, -0.1, 2.0, 3.0])
    changed, moved = precision.apart(exact, fast, offset=0.0)
    assert changed == 0.25
    assert moved == pytest.approx((1 / (1 + np.exp(-0.1)) - 1 / (1 + np.exp(0.1))) / 4)
    _, far = precision.apart(exact, fast, offset=-8.0)  # far from one half the same step moves P(fake) less
    assert far < moved / 100


def test_a_choice_is_remembered_on_the_same_machine_only() -> None:
    choice = Choice({"a": "bf16"}, {"a": FASTER}, 0.0, 0.001, 400, here := precision.machine("cpu"))
    assert precision.remembered({"choice": choice.to_dict()}, here) == choice
    assert precision.remembered({"choice": choice.to_dict()}, "another") is None
    assert precision.remembered({"choice": None}, here) is None
    assert precision.remembered({}, here) is None


def test_a_choice_of_a_gpu_is_not_a_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU of {device}")
    assert len({precision.machine(device) for device in ("cpu", "cuda", "cuda:1")}) == 3


def test_a_network_answers_a_batch_once_and_anew_in_another_precision() -> None:
    net = Network(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 2)))
    asked = []
    net.net.register_forward_hook(lambda *_: asked.append(net.precision))
    x = torch.rand(4, 3, 4, 4)
    exact = [net(x), net(x)][0]
    net.precision = "bf16"
    fast = net(x)
    assert asked == ["fp32", "bf16"]
    assert fast.dtype == torch.float32
    assert 0 < float((fast - exact).detach().abs().max()) < 0.05


def test_a_processor_that_only_emulates_bf16_is_found_out_on_few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def rate(_: Network, x: torch.Tensor, how: str) -> float:
        seen.append(len(x))
        return 100.0 if how == "fp32" else 3.0

    monkeypatch.setattr(precision, "_rate", rate)
    assert precision.faster(precision.timed(Network(torch.nn.Identity()), torch.rand(64, 3, 4, 4))) == "fp32"
    assert set(seen) == {precision.FEW}


# --- in the grid ----------------------------------------------------------------------------------

PLAN = CorruptionPlan(corruptions=("gaussian_noise", "contrast"), severities=(3,), images=20, batch=16)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    source = write_folder(learnable_set(160), tmp_path_factory.mktemp("images"))
    models = "models=['mlp', 'resnet_se_small']"
    return train_all(settings(source, models), tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture
def run(trained: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run without cells, on a machine that finds bf16 faster for the convolutional network alone."""
    for path in trained.path.glob("corruptions/*"):
        path.unlink()
    monkeypatch.setattr(precision, "WORTH", 0)
    monkeypatch.setattr(precision, "MOST_CHANGED", 1.0)
    monkeypatch.setattr(precision, "MOST_MOVED", 1.0)
    monkeypatch.setattr(precision, "timed", lambda net, _: FASTER if "Conv2d" in str(net) else SLOWER)
    return trained


def chosen(run: Run, cells: list[CorruptionCell]) -> dict[tuple[str, str], str]:
    return {(cell.model, cell.damage.condition): str(cell.load(run).notes["precision"]) for cell in cells}


def test_each_detector_answers_as_chosen_and_its_cells_say_so(run: Run) -> None:
    reporter = Heard()
    cells = corrupt_run(run, PLAN, reporter)
    how = chosen(run, cells)
    assert {how[name, "clean"] for name in ("mlp", "resnet_se_small", "ensemble")} == {"fp32"}
    assert how["mlp", "contrast-3"] == "fp32"
    assert how["resnet_se_small", "contrast-3"] == "bf16"
    notes = next(cell for cell in cells if cell.model == "ensemble" and cell.damage.severity).load(run).notes
    used = set(notes["choice"]["precision"])
    assert notes["choice"]["precision"] == {n: {"mlp": "fp32", "resnet_se_small": "bf16"}[n] for n in used}
    assert any(line.startswith("resnet_se_small base: bf16: bf16 is 2.0 times as fast") for line in reporter.lines)
    assert "cells in" in reporter.lines[-1]
    assert "outside the forwards" in reporter.lines[-1]


def test_where_bf16_changes_too_much_everything_is_as_in_fp32(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "MOST_MOVED", -1.0)
    cells = corrupt_run(run, PLAN)
    assert set(chosen(run, cells).values()) == {"fp32"}
    tables = {cell.path.name.rsplit("-", 1)[0]: cell.load(run).table for cell in cells}
    for cell in corrupt_run(run, PLAN.model_copy(update={"precision": "fp32"})):
        found = tables[cell.path.name.rsplit("-", 1)[0]]
        np.testing.assert_allclose(cell.load(run).table["logit_fake"], found["logit_fake"], atol=1e-5)


def test_a_resumed_grid_goes_on_as_it_began_without_measuring_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = corrupt_run(run, PLAN)
    before = {cell.path: cell.load(run).table for cell in cells}
    for cell in cells:
        if cell.damage.name == "contrast":
            cell.path.unlink()
    monkeypatch.delattr(precision, "timed")
    corrupt_run(run, PLAN)
    for cell in cells:
        np.testing.assert_allclose(cell.load(run).table["logit_fake"], before[cell.path]["logit_fake"], atol=1e-5)
    assert chosen(run, cells)["resnet_se_small", "contrast-3"] == "bf16"


def test_cells_in_fp32_serve_auto_and_a_small_grid_is_not_probed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    exact: set[Path] = {cell.path for cell in corrupt_run(run, PLAN.model_copy(update={"precision": "fp32"}))}
    assert {cell.path for cell in corrupt_run(run, PLAN)} == exact
    for path in exact:
        path.unlink()
    monkeypatch.undo()
    assert set(chosen(run, corrupt_run(run, PLAN)).values()) == {"fp32"}
