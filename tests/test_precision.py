"""Whatever is judged is computed in float32 proper, and the caller's own setting comes back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from robustbench_df.attacks.runner import run_attack
from robustbench_df.models.detector import Detector
from robustbench_df.precision import exact_fp32

CONV = torch.backends.cudnn.conv
EXACT = {"none", "ieee"}


@pytest.fixture(params=["tf32", "none", "mixed"])
def own(request: pytest.FixtureRequest) -> Iterator[str]:
    """The precision of convolutions that the caller has chosen, for all of cuDNN or for them alone."""
    torch.backends.cudnn.allow_tf32 = request.param == "tf32"
    if request.param == "mixed":
        CONV.fp32_precision = "tf32"
    yield CONV.fp32_precision
    torch.backends.cudnn.allow_tf32 = True


def test_the_callers_setting_comes_back_after_an_error_too(own: str) -> None:
    def fails() -> None:
        with exact_fp32():
            assert CONV.fp32_precision in EXACT
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert CONV.fp32_precision == own


def test_attacks_see_exact_convolutions(own: str) -> None:
    seen: list[str] = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(CONV.fp32_precision)
            margin = x.mean((1, 2, 3))
            return torch.stack([-margin, margin], dim=1)

    run_attack(Detector(Spy()), torch.rand(2, 3, 8, 8), torch.tensor([1, 1]), "fgsm")
    assert set(seen) <= EXACT
    assert CONV.fp32_precision == own
