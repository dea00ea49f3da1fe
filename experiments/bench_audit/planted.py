"""What is planted: copies as torchvision's usual augmentations make them, and whole sets with one fault each."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

import robustbench_df as rdf
from robustbench_df.audit.copies import find_copies
from robustbench_df.audit.finding import Audit
from robustbench_df.audit.front import audit
from robustbench_df.audit.predictions import audit_predictions

SIDE = 32

KINDS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "identical": v2.Identity(),
    "flipped": v2.RandomHorizontalFlip(1.0),
    "cropped to 70–100% of the area": v2.RandomResizedCrop(SIDE, (0.7, 1.0), (0.9, 1.1)),
    "shifted by up to 4 px, black border": v2.RandomCrop(SIDE, padding=4),
    "re-compressed, JPEG quality 50–95": v2.JPEG((50, 95)),
    "brightness × 0.6–1.4": v2.ColorJitter(brightness=0.4),
    "colours (brightness, contrast, saturation 0.3, hue 0.05)": v2.ColorJitter(0.3, 0.3, 0.3, 0.05),
    "turned by up to 15°": v2.RandomRotation(15, InterpolationMode.BILINEAR),
    "a training pipeline (shift, flip, brightness)": v2.Compose(
        [v2.RandomCrop(SIDE, padding=4), v2.RandomHorizontalFlip(), v2.ColorJitter(brightness=0.3)]
    ),
}

Planted = tuple[str, "rdf.ImageSet", "rdf.ImageSet | Path | None", str, str]
"""What is planted, the set, what it is held against (another set, a submission), and which finding must say what."""


def one_per_tile() -> rdf.ImageSet:
    """The demo set's natural pictures, one of each tile, real and fake in turn: no two show the same.

    A field of stars and a microscope's slide are left out: few dots on black, and a pattern on white.
    """
    demo = rdf.load_images("demo")
    tiles = sorted(set(demo.groups[~np.isin(demo.sources.astype(str), ("hubble", "ihc"))]))
    rows = [np.flatnonzero((demo.groups == tile) & (demo.labels == k % 2))[0] for k, tile in enumerate(tiles)]
    return demo.subset(np.array(rows))


def changed(data: np.ndarray, kind: str, seed: int = 0) -> np.ndarray:
    """Return a copy of every picture, uint8 ``[N, 3, H, W]``, each changed by its own draw."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return np.stack([KINDS[kind](torch.from_numpy(picture)).numpy() for picture in data])


def sets(images: rdf.ImageSet, folder: Path) -> Iterator[Planted]:
    """Yield labelled ``images`` with one fault each; groups are kept together; files go to ``folder``."""
    n, labels, rng = len(images), images.labels, np.random.default_rng(0)
    owners = np.where(images.groups == "", images.ids, images.groups).astype(str)
    in_test = np.unique(owners, return_inverse=True)[1] % 5 == 4
    given = np.where(in_test, "test", "train")

    def made(rows: np.ndarray = np.arange(n), **other: np.ndarray) -> rdf.ImageSet:  # noqa: B008
        columns = {"data": images.data, "labels": labels, "groups": images.groups, "given": given}
        own = {name: other.get(name, values[rows]) for name, values in columns.items()}
        return rdf.image_set_from_arrays(own.pop("data"), own.pop("labels"), **own, origin="planted")

    yield "nothing", made(), None, "", ""
    test, train = np.flatnonzero(in_test)[::5], rng.permutation(np.flatnonzero(~in_test))
    rows = np.arange(n)
    rows[test] = train[: len(test)]
    for kind in KINDS:
        data, groups = images.data[rows].copy(), images.groups[rows].copy()
        data[test], groups[test] = changed(data[test], kind), ""
        what = f"a fifth of test is copied from train: {kind}"
        yield what, made(rows, data=data, groups=groups, given=given), None, "duplicates-across-splits", "fail"
    half = np.arange(n // 2)
    other = rdf.image_set_from_arrays(images.data[half], 1 - labels[half], origin="inverted")
    yield "the other set's labels are inverted", made(), other, "label-polarity", "fail"
    wrong = np.isin(np.arange(n), rng.choice(n, round(0.03 * n), replace=False))
    yield "3% of the labels are flipped", made(labels=np.where(wrong, 1 - labels, labels)), None, "label-noise", "warn"
    rows = np.r_[np.arange(n), : n // 50]
    both = np.r_[labels, 1 - labels[: n // 50]]
    yield "2% of the pictures stand under both labels", made(rows, labels=both), None, "label-conflicts", "fail"
    for what, endings in (("both PNG", ("png", "png")), ("real JPEG, fake PNG", ("jpg", "png"))):
        for k in range(n):
            path = folder / what / ("fake" if labels[k] else "real") / f"{k}.{endings[labels[k]]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images.data[k].transpose(1, 2, 0)).save(path)
        wanted = ("shortcuts-files", "pass" if what == "both PNG" else "fail")
        yield f"files: {what}", rdf.load_images(str(folder / what)), None, *wanted


def submissions(images: rdf.ImageSet, folder: Path) -> Iterator[Planted]:
    """Yield submissions about a quarter of ``images``, whose labels are hidden, nine answers in ten right; garbled."""
    rng, hidden = np.random.default_rng(0), np.arange(len(images)) % 4 == 3
    truth = images.labels[hidden]
    names = np.where(hidden, [f"test/{k}.png" for k in np.cumsum(hidden)], images.ids).tolist()
    shown = np.where(hidden, -1, images.labels)
    asked = rdf.image_set_from_arrays(images.data, shown, ids=names, groups=images.groups, origin="planted")
    fake = np.where(rng.random(len(truth)) < 0.9, truth, 1 - truth)
    good = np.where(fake == 1, rng.uniform(0.6, 1, len(fake)), rng.uniform(0, 0.4, len(fake)))
    listing = np.argsort([str(k + 1) for k in range(len(truth))])
    for what, answers, finding, severity in (
        ("as it should be", good, "predictions-order", "pass"),
        ("answers under their position in an alphabetical listing", good[listing], "predictions-order", "fail"),
        ("answers permuted at random", rng.permutation(good), "predictions-order", "warn"),
        ("real and fake swapped", 1 - good, "predictions-polarity", "fail"),
    ):
        path = folder / f"{what}.json"
        path.write_text(json.dumps([{"index": k + 1, "prediction": p} for k, p in enumerate(answers.tolist())]))
        yield f"submission: {what}", asked, path, finding, severity


def copies(pool: rdf.ImageSet) -> Iterator[dict[str, Any]]:
    """Plant a copy of every picture, a row for each kind; a pair of two different pictures is a false one."""
    n = len(pool)
    for kind in KINDS:
        pairs = find_copies(rdf.image_set_from_arrays(np.r_[pool.data, changed(pool.data, kind)], [0, 1] * n)).pairs()
        found = int((pairs[:, 1] == pairs[:, 0] + n).sum())
        false = {(a, b) for a, b in np.sort(pairs % n).tolist() if a != b}
        said = "; ".join(" and ".join(map(str, pool.ids[[a, b]])) for a, b in sorted(false))
        yield {
            "row": kind,
            "found": rdf.wilson(found, n),
            "false pairs per picture": rdf.wilson(len(false), n),
            "the audit says": f"falsely paired: {said}" if said else "",
        }


def faults(pool: rdf.ImageSet) -> Iterator[dict[str, Any]]:
    """Plant each fault alone, a row for each, and tell what the audit finds."""
    with tempfile.TemporaryDirectory() as place:
        for what, images, other, finding, severity in chain(sets(pool, Path(place)), submissions(pool, Path(place))):
            found = Audit(audit_predictions(other, images)) if isinstance(other, Path) else audit(images, other)
            seen = {f.id: f.severity for f in found.findings if f.severity in ("warn", "fail")}
            right = found[finding].severity == severity if finding else "fail" not in seen.values()
            said = f"{finding} {found[finding].severity}: {found[finding].detail}" if finding else f"{seen}"
            yield {"row": what, "as it should be": right, "the audit says": said}
