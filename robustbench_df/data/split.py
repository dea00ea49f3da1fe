"""Leak-proof splits: parts never share an image, a copy of an image (near ones too), or a group.

Augmented and adversarial copies are made later, inside train, so a split is only ever about original images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from robustbench_df.audit.copies import Copies, find_copies
from robustbench_df.config import SplitConfig
from robustbench_df.data.components import Index, components
from robustbench_df.data.imageset import SPLIT_NAMES, Finding, ImageSet
from robustbench_df.errors import DataError
from robustbench_df.wording import counted

_KEEP_ORDER = ("test", "cal", "val", "train")
"""Priority of the parts where a given split divides a set of twins: the first part keeps its twins, the others lose
theirs. So the judged side stays whole and the learnt side loses images."""

IN_FOLDS = "given-part-in-folds"
"""Kind of the finding that a part given by the source was divided among the folds."""


def _empty() -> Index:
    return np.empty(0, dtype=np.intp)


@dataclass(frozen=True, eq=False)
class Split:
    """Index sets ``train, val, cal, test`` over one `ImageSet`.

    Train is for learning, val for choosing checkpoints and weights, cal for temperature and threshold; test only for
    the final evaluation.

    Raises:
        DataError: two parts share an id, a pixel hash or a group, or an index is unlabelled or out of range.
    """

    images: ImageSet
    train: Index
    val: Index
    cal: Index = field(default_factory=_empty)
    test: Index = field(default_factory=_empty)
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        seen: dict[str, dict[object, str]] = {"id": {}, "pixel hash": {}, "group": {}}
        for part in SPLIT_NAMES:
            index = getattr(self, part)
            if len(index) and (index.min() < 0 or index.max() >= len(self.images)):
                raise DataError(f"split part '{part}' points outside the {len(self.images)} images")
            if (self.images.labels[index] < 0).any():
                raise DataError(f"split part '{part}' holds unlabelled images")
            columns = {
                "id": self.images.ids[index].tolist(),
                "pixel hash": self.images.hashes[index].tolist(),
                "group": [group for group in self.images.groups[index] if group],
            }
            if len(set(columns["id"])) != len(index):
                raise DataError(f"split part '{part}' holds an image twice")
            for what, values in columns.items():
                for value in values:
                    other = seen[what].setdefault(value, part)
                    if other != part:
                        raise DataError(f"split parts '{other}' and '{part}' share the {what} '{value}'")

    def part(self, name: str) -> Index:
        """Return the indices of ``train``, ``val``, ``cal`` or ``test``."""
        if name not in SPLIT_NAMES:
            raise DataError(f"no split part '{name}'; choose from {', '.join(SPLIT_NAMES)}")
        index: Index = getattr(self, name)
        return index

    def counts(self) -> dict[str, dict[str, int]]:
        """Count real and fake images by part."""
        labels = self.images.labels
        return {
            part: {
                "real": int((labels[self.part(part)] == 0).sum()),
                "fake": int((labels[self.part(part)] == 1).sum()),
            }
            for part in SPLIT_NAMES
        }


def make_split(images: ImageSet, config: SplitConfig | None = None, copies: Copies | None = None) -> Split:
    """Divide the labelled images: stratified by class, twins and groups kept together, given parts respected.

    Where a given split divides twins (or a group), the part that comes first in test, cal, val, train keeps them. The
    others lose them, and each lost image becomes a finding of kind ``twin-left-out``.

    Args:
        images: the set.
        config: fractions and seed; the defaults when None.
        copies: the result of `find_copies` for the set, if it is known already; unused without ``config.near_copies``.

    Raises:
        DataError: there is nothing to train on, or a class is missing in train, val or another part that is not empty.
    """
    config = config or SplitConfig()
    families = _families(images, config, copies)
    given, free, findings = _given_parts(images, families)
    wanted = {part: getattr(config, part) for part in SPLIT_NAMES if part == "train" or not len(given[part])}
    # Parts that the source does not give are cut from the pool of training images.
    pool = np.concatenate([free, given["train"]])
    if not len(pool):
        raise DataError(_nothing_to_learn(images, given))
    drawn = _divide(images, pool, {k: v for k, v in wanted.items() if v > 0}, config.seed or 0, families)
    parts = {part: np.sort(drawn.get(part, given[part])) for part in SPLIT_NAMES}
    split = Split(images, **parts, findings=findings)
    _require_both_classes(split, {part: _other_fractions(part, config) for part in drawn}, families)
    return split


def make_folds(images: ImageSet, config: SplitConfig, folds: int, copies: Copies | None = None) -> list[Split]:
    """Return ``folds`` splits; ``cal`` of fold k is its held-out part; together these cover all images but test.

    Each fold cuts its own val from its training images, so nothing is ever chosen on the held-out part. A given test
    part is the same in every fold; without one, test is empty and scores come from the held-out parts. Given val and
    cal parts are divided like the rest, and each becomes a finding of kind `IN_FOLDS`. ``copies`` as in `make_split`.
    """
    families = _families(images, config, copies)
    given, free, findings = _given_parts(images, families)
    findings += tuple(
        Finding(
            IN_FOLDS,
            part,
            f"the {len(given[part]):,} images of the given {part} part are divided among the {folds} folds, to learn "
            f"from and to judge by; keep them as {part} with --folds 1",
        )
        for part in ("val", "cal")
        if len(given[part])
    )
    pool = np.concatenate([free, given["train"], given["val"], given["cal"]])
    held = _divide(images, pool, {str(k): 1.0 for k in range(folds)}, config.seed or 0, families)
    if not len(pool):
        raise DataError(_nothing_to_learn(images, given))
    val_share = config.val / (config.train + config.val)
    splits = []
    for k in range(folds):
        rest = np.sort(np.concatenate([held[str(j)] for j in range(folds) if j != k]))
        shares = {"train": 1 - val_share, "val": val_share}
        inner = _divide(images, rest, shares, (config.seed or 0) + 1 + k, families)
        split = Split(images, inner["train"], inner["val"], np.sort(held[str(k)]), given["test"], findings)
        inside = {part: _other_fractions(part, config) for part in inner}
        _require_both_classes(split, {**inside, "cal": "fewer folds (--folds)"}, families)
        splits.append(split)
    return splits


def make_refit(split: Split) -> Split:
    """Return a split that trains on everything but test, for a submission; nothing is left to validate on."""
    everything = np.sort(np.concatenate([split.train, split.val, split.cal]))
    return Split(split.images, everything, _empty(), _empty(), split.test, split.findings)


def _families(images: ImageSet, config: SplitConfig, copies: Copies | None) -> Index | None:
    """Number the families of near copies; None if these need not be kept together."""
    if not config.near_copies:
        return None
    return (find_copies(images) if copies is None else copies).families()


def _given_parts(images: ImageSet, families: Index | None) -> tuple[dict[str, Index], Index, tuple[Finding, ...]]:
    """Return the labelled images by given part, those without one, and a finding for each twin that is left out."""
    index = images.labelled()
    if not len(index):
        raise DataError(
            f"no labelled image in {images.origin or 'the source'}; training needs real and fake ones: put them below "
            "folders real/ and fake/, or list them in a manifest (path,label)"
        )
    part_of = images.given[index].copy()
    component = components(images, index, families)
    rank = {part: k for k, part in enumerate(_KEEP_ORDER)}
    # Images without a given part rank with train: they can only be trained on or divided further.
    ranks = np.fromiter((rank.get(part, rank["train"]) for part in part_of), np.intp, len(index))
    best = np.full(component.max() + 1, len(rank), dtype=np.intp)
    np.minimum.at(best, component, ranks)
    dropped = ranks > best[component]
    findings = tuple(
        Finding(
            "twin-left-out",
            str(images.ids[i]),
            f"a copy, or in one group, of the given {_KEEP_ORDER[best[c]]} part; left out of {part or 'train'}",
        )
        for i, c, part in zip(index[dropped], component[dropped], part_of[dropped], strict=True)
    )
    kept, part_of = index[~dropped], part_of[~dropped]
    given = {part: kept[part_of == part] for part in SPLIT_NAMES}
    return given, kept[part_of == ""], findings


def _divide(
    images: ImageSet, pool: Index, shares: dict[str, float], seed: int, families: Index | None
) -> dict[str, Index]:
    """Divide ``pool`` in proportion to ``shares``, class by class, never cutting a component.

    Components are shuffled and then sorted by size, largest first. Each goes to the part that most lacks its classes.
    """
    rng = np.random.default_rng(np.random.PCG64(seed))
    pool = np.sort(pool)
    component = components(images, pool, families)
    order = np.argsort(component, kind="stable")
    members = np.split(pool[order], np.flatnonzero(np.diff(component[order])) + 1)
    members = [members[k] for k in rng.permutation(len(members))]
    members.sort(key=len, reverse=True)
    names = list(shares)
    weights = np.array([shares[name] for name in names])
    totals = np.array([(images.labels[pool] == c).sum() for c in (0, 1)], dtype=float)
    target = np.maximum(weights[:, None] / weights.sum() * totals[None, :], 1e-9)
    have = np.zeros_like(target)
    chosen: dict[str, list[Index]] = {name: [] for name in names}
    for member in members:
        fakes = int(images.labels[member].sum())
        counts = np.array([len(member) - fakes, fakes], dtype=float)
        need = ((target - have) / target) @ counts
        best = int(np.argmax(need))
        have[best] += counts
        chosen[names[best]].append(member)
    return {name: np.concatenate(parts) if parts else _empty() for name, parts in chosen.items()}


def _nothing_to_learn(images: ImageSet, given: Mapping[str, Index]) -> str:
    held = " and ".join(f"{len(index):,} in {part}" for part, index in given.items() if len(index))
    return (
        f"the source '{images.origin}' puts its labelled images elsewhere than in train ({held}); add some for train, "
        "or have the parts drawn: give the path of that part's own folder, or take the part out of the folders' names"
    )


def _require_both_classes(split: Split, remedies: Mapping[str, str], families: Index | None) -> None:
    """Refuse a part that lacks a class; ``remedies`` say how to enlarge a part that is drawn, not given."""
    for part, counts in split.counts().items():
        lacking = [name for name, count in counts.items() if not count]
        if lacking and (sum(counts.values()) or part in ("train", "val")):
            remedy = "give more images"
            if part in remedies:
                remedy = _too_few(split, lacking[0], list(remedies), families) or f"{remedy} or {remedies[part]}"
            raise DataError(
                f"the {part} part has no {lacking[0]} image ({counts['real']} real, {counts['fake']} fake); {remedy}"
            )


def _too_few(split: Split, name: str, drawn: list[str], families: Index | None) -> str:
    """Say so if a class has fewer images, or fewer inseparable groups, than there are parts: no setting helps."""
    pool = np.concatenate([split.part(part) for part in drawn])
    own = pool[split.images.labels[pool] == ("real", "fake").index(name)]
    alone = len(np.unique(components(split.images, pool, families)[np.isin(pool, own)]))
    if alone >= len(drawn):
        return ""
    groups = (
        f", and what belongs together (copies, groups, --group-by) makes {counted(alone, 'group')} of them"
        if 0 < alone < len(own)
        else ""
    )
    return f"only {counted(len(own), f'{name} image')} in all{groups}; give more"


def _other_fractions(part: str, config: SplitConfig) -> str:
    """Return settings that at most double a part at the cost of train (train at that of val) and still sum to 1."""
    taken = "val" if part == "train" else "train"
    more, less = getattr(config, part), getattr(config, taken)
    moved = min(more, less / 2)
    return f"other fractions (--set split.{taken}={round(less - moved, 9)} --set split.{part}={round(more + moved, 9)})"


def split_rows(splits: Iterable[Split]) -> list[tuple[str, str, int]]:
    """Return rows (image id, part, fold) for ``split.parquet``; the fold is -1 if there is only one split."""
    many = list(splits)
    rows = []
    for fold, split in enumerate(many):
        for part in SPLIT_NAMES:
            rows += [(str(i), part, fold if len(many) > 1 else -1) for i in split.images.ids[split.part(part)]]
    return rows
