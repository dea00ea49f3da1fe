"""Small image trees on disk and in archives, and a cache that dies with the test."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Files = Mapping[str, bytes]


def png(seed: int, size: tuple[int, int] = (8, 8)) -> bytes:
    """A random RGB image of width × height as PNG bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RDF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def make_png() -> Callable[..., bytes]:
    return png


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[Files], Path]:
    """Write files below a fresh folder."""

    def write(files: Files, name: str = "set") -> Path:
        root = tmp_path / name
        for path, raw in files.items():
            target = Path(os.path.join(root, path))  # noqa: PTH118
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(raw)
        return root

    return write


@pytest.fixture
def archive(tmp_path: Path) -> Callable[[Files], Path]:
    """Write files into a fresh zip."""

    def write(files: Files, name: str = "set.zip") -> Path:
        with zipfile.ZipFile(tmp_path / name, "w") as target:
            for path, raw in files.items():
                target.writestr(path, raw)
        return tmp_path / name

    return write


@pytest.fixture
def pair() -> dict[str, bytes]:
    """The smallest labelled set: two images of each class."""
    return {"real/1.png": png(1), "real/10.png": png(2), "fake/1.png": png(3), "fake/2.png": png(4)}
