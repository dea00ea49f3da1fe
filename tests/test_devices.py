"""Names of devices, and what is not there."""

from __future__ import annotations

import pytest
import torch

from robustbench_df.devices import choose_device, working
from robustbench_df.errors import UsageError


def test_a_device_that_is_not_there_is_one_line() -> None:
    assert choose_device("cpu") == "cpu"
    with pytest.raises(UsageError, match="unknown device"):
        choose_device("gpu0")
    if not torch.cuda.is_available():
        assert choose_device("auto") in ("cpu", "mps")
        with pytest.raises(UsageError, match="torch sees none such"):
            choose_device("cuda")


def test_the_callers_threads_come_back_even_after_an_error() -> None:
    before = torch.get_num_threads()
    seen = []

    def fail() -> None:
        with working(before + 1):
            seen.append(torch.get_num_threads())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert seen == [before + 1]
    assert torch.get_num_threads() == before
