"""What importing the package costs and offers."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

import robustbench_df as rdf
from robustbench_df.config import PRESETS
from robustbench_df.data.demo import demo_set

HEAVY = ("torch", "timm", "pandas", "sklearn", "skimage", "scipy", "matplotlib", "pydantic")


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(' '.join(m for m in {HEAVY} if m in sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_start_up_loads_nothing_heavy() -> None:
    assert loaded_after("import robustbench_df") == set()
    assert loaded_after("import robustbench_df.cli") == set()
    assert "torch" not in loaded_after(
        "import robustbench_df.metrics.resampling, robustbench_df.summary, robustbench_df.run"
    )


def test_help_answers_in_half_a_second() -> None:
    """The best of five, so that a busy machine is not mistaken for a slow program."""
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "robustbench_df", "--help"], capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0
        assert "train-all" in done.stdout
    assert min(seconds) < 0.5


def test_the_wheel_holds_what_is_not_python_too(tmp_path: Path) -> None:
    """Built from a copy, since setuptools leaves folders of its own beside the sources; nothing is fetched."""
    root = Path(rdf.__file__).parents[1]
    source = tmp_path / "source"
    shutil.copytree(root / "robustbench_df", source / "robustbench_df", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--skip-dependency-check"]
    built = subprocess.run([*command, "--outdir", tmp_path, source], cwd=tmp_path, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if name.startswith("robustbench_df/")}
    wanted = {p.relative_to(source).as_posix() for p in (source / "robustbench_df").rglob("*") if p.is_file()}
    assert inside == wanted
    assert {f"robustbench_df/presets/{preset}.toml" for preset in PRESETS} < inside
    assert {"robustbench_df/py.typed", "robustbench_df/report/templates/page.html.jinja"} < inside


@pytest.mark.parametrize("name", [n for n in rdf.__all__ if n != "__version__"])
def test_every_export_is_there_and_is_not_a_module(name: str) -> None:
    assert type(getattr(rdf, name)).__name__ != "module"


def test_the_audit_is_exported_beside_the_folder_of_that_name() -> None:
    assert rdf.audit_images(demo_set(count=100), fast=True).images == 100


def test_an_unknown_export_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing"):
        _ = rdf.nothing
