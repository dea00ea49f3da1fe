"""The shelf's name for a detector holds all that its weights depend on."""

from __future__ import annotations

from pathlib import Path

from robustbench_df.config import load_config
from robustbench_df.data.split import make_split
from robustbench_df.train.shelf import _digest
from tests.conftest import learnable_set


def test_another_weight_file_under_the_same_name_is_another_detector(tmp_path: Path) -> None:
    split = make_split(learnable_set(60), load_config("full").split)

    def digest(**model: str) -> str:
        return _digest(load_config("full", models=("mlp",), model=model).for_model("mlp"), split, 0)

    weights = tmp_path / "weights.safetensors"
    missing = digest(weights=str(weights))
    weights.write_bytes(b"one")
    one = digest(weights=str(weights))
    weights.write_bytes(b"two")
    two = digest(weights=str(weights))
    weights.write_bytes(b"one")
    assert len({digest(), missing, one, two}) == 4
    assert digest(weights=str(weights)) == one
