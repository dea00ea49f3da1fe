from __future__ import annotations

import pytest

from robustbench_df.errors import ModelError
from robustbench_df.registry import Registry


def test_duplicates_are_refused_and_a_miss_names_the_nearest() -> None:
    registry: Registry[int] = Registry("model", ModelError)
    registry.register("resnet18")(1)
    with pytest.raises(ValueError, match="registered twice"):
        registry.register("resnet18")(2)
    with pytest.raises(ModelError, match="did you mean 'resnet18'"):
        registry["resnet81"]
    assert list(registry) == ["resnet18"]
    assert registry["resnet18"] == 1
