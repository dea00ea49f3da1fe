"""Small runs for tests: a folder of images, and settings that train within seconds."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from robustbench_df.config import RunConfig, load_config
from robustbench_df.corruption_plan import CorruptionCell
from robustbench_df.data.imageset import ImageSet

SMALL = [
    "phase1.epochs=2",
    "phase2.epochs=1",
    "phase1.batch_size=16",
    "phase2.batch_size=16",
    "phase1.image_budget=0",
    "phase2.image_budget=0",
    "model.pretrained=never",
    "models=['resnet_se_small', 'mlp']",
    "per_model={}",
    "speed.save_every=0",
    "split.folds=1",
]


def write_folder(images: ImageSet, folder: Path) -> Path:
    for k, (pixels, label) in enumerate(zip(images.data, images.labels, strict=True)):
        path = folder / ("fake" if label else "real") / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
    return folder


def settings(source: Path, *overrides: str) -> RunConfig:
    return load_config("full", overrides=[*SMALL, *overrides], data={"source": str(source)})


def by_name(cells: list[CorruptionCell]) -> dict[tuple[str, str], CorruptionCell]:
    return {(cell.model, cell.damage.condition): cell for cell in cells}
