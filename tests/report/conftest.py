"""Synthetic run folders, written once per session and copied for each test, so that a test may spoil its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from robustbench_df.report.content import document_of
from robustbench_df.report.document import Document
from tests.report.runs import write_run


@pytest.fixture(scope="session")
def _written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("written") / "example")


@pytest.fixture(scope="session")
def _folded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("folded") / "folded", folds=3)


@pytest.fixture(scope="session")
def _bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("bare") / "bare run", extras=False)


@pytest.fixture(scope="session")
def _other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("other") / "other", seed=1)


@pytest.fixture
def finished_run(_written: Path, tmp_path: Path) -> Path:
    """A finished run of three detectors with attacks, corruptions, an audit and maps; the test's own copy."""
    return Path(shutil.copytree(_written, tmp_path / "example"))


@pytest.fixture
def folded_run(_folded: Path, tmp_path: Path) -> Path:
    """The same with three folds: every image was judged by the detectors that had not seen it."""
    return Path(shutil.copytree(_folded, tmp_path / "folded"))


@pytest.fixture
def bare_run(_bare: Path, tmp_path: Path) -> Path:
    """A run as `rdf train-all` leaves it, and nothing after it."""
    return Path(shutil.copytree(_bare, tmp_path / "bare run"))


@pytest.fixture
def other_run(_other: Path, tmp_path: Path) -> Path:
    """A second run about the same images, split otherwise, with other noise in the detectors' answers."""
    return Path(shutil.copytree(_other, tmp_path / "other"))


@pytest.fixture(scope="session")
def whole(_written: Path) -> Document:
    """The report of `finished_run` as it is."""
    return document_of(_written)
