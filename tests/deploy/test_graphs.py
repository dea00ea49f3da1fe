"""Graphs say what the detector says, for any batch; what cannot be a graph is one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from robustbench_df.config import ModelConfig
from robustbench_df.deploy.graphs import open_graph, save_graph
from robustbench_df.errors import ModelError
from robustbench_df.models.detector import Detector, Ensemble
from robustbench_df.models.zoo import build_detector

SIZE = (16, 16)


def detector(name: str = "resnet_se_small", **settings: object) -> Detector:
    torch.manual_seed(0)
    config = ModelConfig.model_validate({"name": name, "pretrained": "never", **settings})
    return build_detector(config, SIZE)[0].eval()


def mixed() -> Ensemble:
    """Members with weight 0, with and without the residual front-end."""
    members = [detector("mlp", frontend="rgb"), detector("mlp", frontend="rgb"), detector(frontend="residual")]
    return Ensemble(members, [1.0, 0.0, 3.0]).eval()


class Moody(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)[:, :2]
        return flat if float(x.mean()) > 0.5 else -flat


@pytest.mark.parametrize("form", ["exported-program", "onnx"])
def test_any_batch_gets_the_detectors_answer(form: str, tmp_path: Path) -> None:
    if form == "onnx":
        pytest.importorskip("onnxruntime", reason="the extra 'export' is not installed")
    ensemble, path = mixed(), tmp_path / ("a.onnx" if form == "onnx" else "a.pt2")
    save_graph(ensemble, SIZE, form, path)
    opened = open_graph(path, form)
    with torch.no_grad():
        for n in (1, 2, 7):
            x = torch.rand(n, 3, *SIZE)
            assert torch.allclose(opened(x), ensemble(x), atol=1e-5)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]  # weights are inside


def test_tracing_leaves_the_detector_as_it_was(tmp_path: Path) -> None:
    one = detector("mlp").train()
    save_graph(one, SIZE, "exported-program", tmp_path / "a.pt2")
    assert one.training
    assert all(p.requires_grad for p in one.parameters())


def test_what_depends_on_pixels_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"^torch\.export cannot trace this detector: .+"):
        save_graph(Detector(Moody()), SIZE, "exported-program", tmp_path / "a.pt2")
    assert not list(tmp_path.iterdir())
