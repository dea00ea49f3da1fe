"""Memory that runs out is recognised in the words of every backend, and answered by half as much."""

from __future__ import annotations

import pytest
import torch

from robustbench_df.memory import halving, is_out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("anything"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
        RuntimeError("FIND was unable to find an engine to execute this computation"),
    ],
)
def test_memory_that_runs_out_is_recognised(error: RuntimeError) -> None:
    assert is_out_of_memory(error)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_half_as_much_is_tried_until_it_fits() -> None:
    tried: list[int] = []

    def compute(size: int) -> str:
        tried.append(size)
        if size > 3:
            raise torch.OutOfMemoryError("out of memory")
        return f"{size} at a time"

    assert halving(20, compute) == "2 at a time"
    assert tried == [20, 10, 5, 2]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), RuntimeError("another")])
def test_what_half_as_much_does_not_help_goes_on_its_way(error: RuntimeError) -> None:
    tried: list[int] = []

    def fails(size: int) -> None:
        tried.append(size)
        raise error

    with pytest.raises(RuntimeError, match=str(error)):
        halving(4, fails)
    assert tried == ([4, 2, 1] if is_out_of_memory(error) else [4])
