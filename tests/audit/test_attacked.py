"""Attacked images are measured against the ε that they are quoted for, whoever made them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from robustbench_df.audit.finding import AuditFinding
from robustbench_df.audit.leakage import audit_run
from robustbench_df.data.imageset import ImageSet
from robustbench_df.run import Run
from tests.audit.runs import write_run
from tests.conftest import learnable_set

EPS = 0.05


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return learnable_set(240)


@pytest.fixture
def run(images: ImageSet, tmp_path: Path) -> Run:
    return write_run(tmp_path / "run", images, 1)


def keep(run: Run, images: ImageSet, change: Any, norm: str = "linf", eps: float = EPS) -> None:
    """Leave the first images, each changed by ``change(pixels in [0, 1])`` and rounded as a file must be."""
    folder = run.file("attacks", "examples-somebody")
    folder.mkdir(parents=True)
    listed = [{"image_id": str(name), "file": f"{k}.png"} for k, name in enumerate(images.ids[:6])]
    for entry, pixels in zip(listed, images.data[:6], strict=True):
        attacked = np.clip(change(pixels / 255.0), 0, 1)
        Image.fromarray(np.round(attacked * 255).astype(np.uint8).transpose(1, 2, 0)).save(folder / entry["file"])
    (folder / "examples.json").write_text(json.dumps({"norm": norm, "eps": eps, "images": listed}))


def found_in(run: Run, images: ImageSet) -> AuditFinding | None:
    found = {finding.id: finding for finding in audit_run(run, images, np.empty((0, 2), np.intp))}
    return found.get("run-attacked")


def test_a_run_that_keeps_no_attacked_image_is_not_asked_about_them(run: Run, images: ImageSet) -> None:
    assert found_in(run, images) is None


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_images_within_the_budget_pass_though_files_round_them(run: Run, images: ImageSet, norm: str) -> None:
    count = images.data[0].size
    step = EPS / {"linf": 1, "l2": count**0.5, "l1": count}[norm]
    keep(run, images, lambda x: x + step * np.where(x > 0.5, -1, 1), norm)
    found = found_in(run, images)
    assert found is not None
    assert (found.severity, found.figures["images"]) == ("pass", 6)


def test_one_step_too_far_in_a_single_pixel_is_found(run: Run, images: ImageSet) -> None:
    def change(x: Any) -> Any:
        moved = x + EPS * np.where(x > 0.5, -1, 1)
        moved[0, 0, 0] = x[0, 0, 0] + (EPS + 2 / 255) * (-1 if x[0, 0, 0] > 0.5 else 1)
        return moved

    keep(run, images, change)
    found = found_in(run, images)
    assert found is not None
    assert found.severity == "fail"
    assert found.figures["beyond"] == 6
    assert found.figures["largest"] == pytest.approx(EPS + 2 / 255, abs=1 / 255)
    assert "instead of 0.05" in found.detail


def test_what_cannot_be_measured_is_not_called_right(run: Run, images: ImageSet) -> None:
    keep(run, images, lambda x: x)
    run.file("attacks", "examples-somebody", "3.png").unlink()
    found = found_in(run, images)
    assert found is not None
    assert found.severity == "not run"
    assert "save them again" in found.detail
