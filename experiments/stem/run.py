"""Native or small stem, colours alone or with residuals: what helps a detector on small images? See README.md."""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import robustbench_df as rdf

HERE = Path(__file__).parent
CONFIG = tomllib.loads((HERE / "config.toml").read_text())
OUT = HERE.parent.parent / "reports" / "experiments" / "stem.json"


def cell(split: rdf.Split, row: dict[str, object], stem: str, frontend: str) -> dict[str, object]:
    phase = {"epochs": CONFIG["epochs"], "lr": row["lr"], "weight_decay": row["weight_decay"], "image_budget": 0}
    config = rdf.load_config(
        "full",
        models=(row["model"],),
        model={"pretrained": "never", "stem": stem, "frontend": frontend},
        phase1=phase,
        phase2={"epochs": 0},
        per_model={},
    )
    recipe = config.for_model(str(row["model"]))

    def build() -> rdf.Detector:
        return rdf.build_detector(recipe.model, split.images.size)[0]

    setting = rdf.setting_for(build, split.images.size, recipe.phase1.batch_size, config.speed, {}, None)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        job = rdf.Job(str(row["model"]), recipe, Path(folder), setting, seed=CONFIG["seed"], save_every=1e9)
        rdf.fit(job, split)
        detector = rdf.load_checkpoint(Path(folder), "base")
    seconds = time.perf_counter() - start
    logits = rdf.predict_logits(detector, split.images, split.test)
    scores = rdf.measure(rdf.judge(logits[:, 1] - logits[:, 0], rdf.Decision()), split.images.labels[split.test])
    numbers = {name: [round(v, 4) for v in scores[name]] for name in ("accuracy", "auc")}
    found = {"model": row["model"], "stem": stem, "frontend": frontend, **numbers, "seconds": round(seconds, 1)}
    return found | {"n": len(split.test)}


def main(source: str) -> None:
    images = rdf.load_images(source)
    split = rdf.make_split(images, rdf.SplitConfig(train=0.75, val=0.05, cal=0, test=0.2, seed=CONFIG["seed"]))
    facts = {"data": images.fingerprint, "train_images": len(split.train), "config": CONFIG}
    kept = json.loads(OUT.read_text()) if OUT.exists() else {}
    # Rows of other data or settings are not ours to keep.
    done = kept["rows"] if all(kept.get(key) == value for key, value in facts.items()) else []
    seen = {(r["model"], r["stem"], r["frontend"]) for r in done}
    for row, frontend, stem in itertools.product(CONFIG["rows"], ("rgb", "residual"), ("native", "small")):
        if (row["model"], stem, frontend) in seen or (row["model"], stem) == ("resnet_se_small", "small"):
            continue
        done.append(cell(split, row, stem, frontend))
        print(json.dumps(done[-1]), flush=True)
        OUT.parent.mkdir(parents=True, exist_ok=True)
        OUT.write_text(json.dumps({**facts, "rows": done}, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "demo")
