"""Training throughput: our loop against a bare step in the same setting, and against the usual loop. See README.md."""

from __future__ import annotations

import json
import statistics
import tempfile
import tomllib
from pathlib import Path

import torch
from usual import images_per_second as usual_loop

import robustbench_df as rdf

HERE = Path(__file__).parent
CONFIG = tomllib.loads((HERE / "config.toml").read_text())


def ours(split: rdf.Split, name: str, recipe: rdf.Recipe, setting: rdf.Setting) -> float:
    """Images per second of our training loop with everything on, as the run's own history records it."""
    with tempfile.TemporaryDirectory() as folder:
        rdf.fit(rdf.Job(name, recipe, Path(folder), setting, save_every=1e9), split)
        rows = [json.loads(line) for line in (Path(folder) / "base-history.jsonl").read_text().splitlines()]
    return float(rows[-1]["images_per_second"])


def main() -> None:
    batch, steps = CONFIG["batch_size"], CONFIG["steps"]
    images = rdf.image_set_from_arrays(*demo(CONFIG["images"]))
    share = (steps + 0.5) * batch / len(images)
    split = rdf.make_split(images, rdf.SplitConfig(train=share, val=0.02, cal=0, test=0.98 - share))
    rows = []
    for name in CONFIG["models"]:
        phase = {"epochs": 2, "batch_size": batch, "image_budget": 0, "ema": 0.99}
        config = rdf.load_config(
            "full",
            models=(name,),
            augment=CONFIG["augment"],
            phase1=phase,
            phase2={"epochs": 0},
            model={"pretrained": "never"},
            per_model={},
        )
        recipe = config.for_model(name)

        def build(recipe: rdf.Recipe = recipe) -> rdf.Detector:
            return rdf.build_detector(recipe.model, images.size)[0]

        setting = rdf.setting_for(build, images.size, batch, config.speed, {}, None)
        seen: dict[str, list[float]] = {"bare": [], "ours": [], "usual": []}
        for _ in range(CONFIG["pairs"]):
            seen["bare"].append(rdf.training_rate(build(), images.size, batch, setting, steps))
            seen["ours"].append(ours(split, name, recipe, setting))
            seen["usual"].append(
                max(usual_loop(build(), images, recipe.augment, batch, steps, workers) for workers in CONFIG["workers"])
            )
        row = {"model": name, "setting": f"{setting.precision} {setting.memory_format}", "threads": setting.threads}
        row |= {f"{kind} images/s": round(statistics.median(values), 1) for kind, values in seen.items()}
        row["ours / bare"] = round(ratio(seen["ours"], seen["bare"]), 3)
        row["ours / usual"] = round(ratio(seen["ours"], seen["usual"]), 2)
        print(json.dumps(row), flush=True)
        rows.append(row)
    out = HERE.parent.parent / "reports" / "experiments" / "bench_training.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"config": CONFIG, "torch": torch.__version__, "rows": rows}, indent=2) + "\n")


def demo(count: int) -> tuple[object, object]:
    images = rdf.load_images("demo")
    return images.data[:count], images.labels[:count]


def ratio(a: list[float], b: list[float]) -> float:
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


if __name__ == "__main__":
    main()
