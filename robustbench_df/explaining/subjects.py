"""Choose the images to explain from a run's predictions, and load the detectors that have not seen them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustbench_df.data.imageset import ImageSet
from robustbench_df.data.thinning import thin
from robustbench_df.ensembling import Votes
from robustbench_df.explaining.cams import Judge, Maps, Seen, verdict_maps
from robustbench_df.metrics.scores import Floats, margins, probability
from robustbench_df.models.deployed import Deployed
from robustbench_df.models.detector import Detector, Ensemble
from robustbench_df.robustness import Index, deployed
from robustbench_df.run import Run
from robustbench_df.summary import Judged, judge, judge_unseen

STATES = ("right", "wrong", "attacked", "corrupted")
"""The state in which an image is shown: clean and judged rightly by the ensemble, clean and judged wrongly, attacked,
or corrupted."""


@dataclass(frozen=True, eq=False)
class Clean:
    """A run's answers on the N clean images of one part; the D detectors come first, then the ensemble.

    ``ids``, ``labels`` and ``fold`` (-1: the deployed detectors) are ``[N]``; ``p_fake`` (calibrated) and ``verdict``
    (1 = fake) are ``[D + 1, N]``.
    """

    phase: str
    names: tuple[str, ...]
    ids: NDArray[np.str_]
    labels: NDArray[np.int8]
    fold: NDArray[np.int16]
    p_fake: Floats
    verdict: NDArray[np.int8]

    @property
    def right(self) -> NDArray[np.bool_]:
        """bool ``[D + 1, N]``: the verdict is right."""
        right: NDArray[np.bool_] = self.verdict == self.labels
        return right


def clean_answers(run: Run, phase: str, part: str) -> Clean:
    """Read the answers of every detector, and of the shipped kind of ensemble, as deployed, to the images of ``part``.

    Raises:
        RunError: predictions are missing or damaged.
    """
    votes = _votes(run, phase, part)
    logits = [*votes.logits, run.weights(phase=phase).combine(votes.logits)]
    names = (*run.models, "ensemble")
    judged = [judge(margins(own), run.decision(name, phase)) for name, own in zip(names, logits, strict=True)]
    return _answers(names, phase, votes, judged)


def judged_answers(run: Run, phase: str, part: str) -> Clean:
    """Read the same answers with weights and decisions not fitted on the image, as in ``results.json`` and the report.

    They differ from `clean_answers` only out of fold, where what is shipped was fitted on every image.
    """
    votes = _votes(run, phase, part)
    logits = [*votes.logits, votes.unseen(run.weights(phase=phase))]
    names = (*run.models, "ensemble")
    labels, fold, rule = votes.rows.labels, votes.rows.table["fold"].to_numpy(), run.config.ensemble.threshold
    judged = [
        judge_unseen(margins(own), labels, fold, part=part, decision=run.decision(name, phase), rule=rule)
        for name, own in zip(names, logits, strict=True)
    ]
    return _answers(names, phase, votes, judged)


def _votes(run: Run, phase: str, part: str) -> Votes:
    # The tables of a run hold the same images in the same order.
    return Votes({name: run.predictions(name, phase).part(part) for name in run.models}, run.groups)


def _answers(names: tuple[str, ...], phase: str, votes: Votes, judged: Sequence[Judged]) -> Clean:
    table = votes.rows.table
    return Clean(
        phase,
        names,
        ids=np.asarray(table["image_id"], dtype=np.str_),
        labels=np.asarray(table["label"], dtype=np.int8),
        fold=np.asarray(table["fold"], dtype=np.int16),
        p_fake=np.stack([probability(own.margin) for own in judged]),
        verdict=np.stack([own.verdict for own in judged]),
    )


@dataclass(frozen=True)
class Subject:
    """One image to explain: its row among the clean answers, and its state (one of `STATES`)."""

    row: int
    state: str


def choose(clean: Clean, count: int) -> list[Subject]:
    """Choose ``count`` pictures, a quarter in each of `STATES`, with classes in proportion; fewer if there are too few.

    The attacked and corrupted images are also among those shown as right, so that a reader sees how the map moves.
    """
    quarter = count // 4
    right = clean.right[-1]
    chosen = {
        "right": some(np.flatnonzero(right), count - 3 * quarter, clean.labels),
        "wrong": some(np.flatnonzero(~right), quarter, clean.labels),
    }
    chosen["attacked"] = chosen["corrupted"] = some(chosen["right"], quarter, clean.labels)
    return [Subject(int(row), state) for state in STATES for row in chosen[state]]


def some(rows: Index, count: int, labels: NDArray[np.int8]) -> Index:
    """Keep at most ``count`` rows (0: none), evenly spaced within each class."""
    return thin(rows, count, labels) if count else rows[:0]


def load_team(run: Run, phase: str, fold: int, device: str) -> dict[str, Deployed]:
    """Return every detector and the ensemble by name, each with its decision; the members are loaded only once.

    Args:
        fold: the fold whose detectors to load; -1 for the deployed ones.
    """
    whole = cast(Deployed, deployed(run, "ensemble", phase, None if fold < 0 else fold).to(device))
    members = cast(Ensemble, whole.net).members
    alone = {
        name: Deployed(cast(Detector, member), run.decision(name, phase)).eval()
        for name, member in zip(run.models, members, strict=True)
    }
    return {**alone, "ensemble": whole}


def bare(detector: Deployed) -> Detector:
    """Return the detector without its decision."""
    return cast(Detector, detector.net)


@torch.no_grad()
def answers(detector: Deployed, x: Tensor) -> Floats:
    """Return the calibrated P(fake), float64 ``[N]``, of images ``[N, 3, H, W]`` in [0, 1]."""
    return _p_fake(detector, detector(x))


def _p_fake(detector: Deployed, shifted: Tensor) -> Floats:
    """P(fake) from deployed logits ``[N, 2]``, after undoing their shift by the threshold."""
    return probability(margins(shifted.cpu().numpy()) + detector.offset)


def _said(shifted: Tensor) -> Tensor:
    """Verdicts as users see them, int64 ``[N]``, from deployed logits ``[N, 2]``."""
    return (shifted[:, 1] >= shifted[:, 0]).long()


def _judge(detector: Deployed) -> Judge:
    return lambda own: _said(detector.shifted(own))


@dataclass(frozen=True, eq=False)
class Look:
    """One detector's answers on N images with their maps: P(fake) and verdict ``[N]``, maps ``[N, H, W]``."""

    p_fake: Floats
    verdict: Tensor
    maps: Maps


def looks(team: Mapping[str, Deployed], names: Iterable[str], x: Tensor, cam: str) -> dict[str, Look]:
    """Let detectors explain their own verdicts on images ``[N, 3, H, W]`` in [0, 1]."""
    known: dict[nn.Module, Seen] = {}
    found = {}
    for name in names:
        detector = team[name]
        seen = verdict_maps(bare(detector), x, _judge(detector), cam, known)
        known[bare(detector)] = seen
        found[name] = Look(_p_fake(detector, detector.shifted(seen.logits)), seen.verdict, seen.maps)
    return found


def load_pixels(images: ImageSet, ids: NDArray[np.str_], device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return uint8 images ``[N, 3, H, W]``, labels and keys on ``device``."""
    where = {str(name): k for k, name in enumerate(images.ids)}
    index = np.array([where[str(name)] for name in ids], dtype=np.intp)
    pixels = torch.from_numpy(images.pixels(index)).to(device)
    labels = torch.from_numpy(images.labels[index].astype(np.int64)).to(device)
    return pixels, labels, torch.from_numpy(images.keys(index)).to(device)


def as_input(pixels: Tensor) -> Tensor:
    """Return uint8 images as detector input in [0, 1], in the layout in which fp32 convolutions are faster."""
    return pixels.float().div_(255).contiguous(memory_format=torch.channels_last)


def as_pixels(x: Tensor) -> Tensor:
    """Round images in [0, 1] to uint8, as in a file, so that the shown and the judged image are the same."""
    return (x * 255).round().clamp(0, 255).to(torch.uint8)
