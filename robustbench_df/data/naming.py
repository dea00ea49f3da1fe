"""What the name of a folder or file, or a label as written, means: class, split, source, number. No store is read."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from robustbench_df.data.imageset import FAKE, REAL, UNLABELLED
from robustbench_df.errors import DataError

CLASSES = {REAL: "real", FAKE: "fake"}
_SPLIT_WORDS = {
    "train": "train|training",
    "val": "val|valid|validation|dev",
    "cal": "cal|calibration",
    "test": "test|testing",
    "evaluation": "eval|evaluation",
}
_ANY_SPLIT = "|".join(_SPLIT_WORDS.values())
# "train", "test_set", "valset", "training data"; but not "tests", "testimonials", "trainers"
_SPLIT_FOLDERS = {
    part: re.compile(rf"({words})([_ -]?set|[_ -](data|split|images?))?") for part, words in _SPLIT_WORDS.items()
}
_CLASS_WORDS = {
    REAL: "real|reals|nature|natural|authentic|genuine|original|pristine",
    FAKE: "fake|fakes|ai|aigc|generated|ai[_ -]generated|synthetic|deepfake|deepfakes|manipulated",
}
_CELEB_DF = {REAL: "(celeb|youtube)[_ -]real", FAKE: "celeb[_ -]synthesis"}  # Li et al. 2020
_SHOWN = "images?|imgs?|faces?|photos?"
_ALSO_SHOWN = "pictures?|videos?|frames?|sequences|art([_ -]?data)?"
# "real", "0_real", "training_fake", "real_images", "fake_cifake_images", "real_test"; but not
# "imagenet_ai_0419_biggan", nor "original_test", which may name a set as well as a class
_CLASS_FOLDERS = {
    label: re.compile(
        rf"(\d+[_. -]*|({_ANY_SPLIT})[_ -])?({words})([_ -](\w+[_ -])?({_SHOWN})|[_ -]({_ALSO_SHOWN}))?"
        rf"|{CLASSES[label]}s?[_ -]({_ANY_SPLIT})|{_CELEB_DF[label]}",
        re.IGNORECASE,
    )
    for label, words in _CLASS_WORDS.items()
}
_LETTER = r"[^\W\d_]"
_CLASS_NAMED = {
    label: re.compile(rf"(?<!{_LETTER})({words})(?!{_LETTER})", re.IGNORECASE) for label, words in _CLASS_WORDS.items()
}
_HUMP = re.compile("(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""Word boundaries in ``RealFaces`` and ``AIImages``."""


class Place(NamedTuple):
    """What a folder's path says about the images in it."""

    label: int
    given: str
    source: str


@lru_cache(maxsize=65536)
def class_of(folder: str) -> int:
    """Return the label a single folder name stands for, -1 when it is no class folder.

    A name with words of both classes (``real_and_fake_face``) names a set, not a class.
    """
    if names_both(folder):
        return UNLABELLED
    for name in (folder, _HUMP.sub("_", folder)):  # unchanged first: "DeepFakes" is one word
        for label, pattern in _CLASS_FOLDERS.items():
            if pattern.fullmatch(name):
                return label
    return UNLABELLED


def names_both(folder: str) -> bool:
    """Tell whether a single folder name holds words of both classes."""
    return all(pattern.search(_HUMP.sub("_", folder)) for pattern in _CLASS_NAMED.values())


def split_of(word: str, evaluation: str | None = None) -> str | None:
    """Return train, val, cal or test for a split's usual names, ignoring case; None for another word.

    ``eval`` and ``evaluation`` give the argument ``evaluation``, because some data sets use these names for their
    validation part and others for their test part.
    """
    name = _HUMP.sub("_", word.strip()).lower()
    part = next((part for part, pattern in _SPLIT_FOLDERS.items() if pattern.fullmatch(name)), None)
    return evaluation if part == "evaluation" else part


@lru_cache(maxsize=65536)
def place_of(folder: str, evaluation: str | None = "test", outer: frozenset[str] = frozenset()) -> Place:
    """Read a folder's path: the first class word is the label, the first split word the split, the rest the source.

    Whether a later class word contradicts the first depends on the whole store, so `folders` checks that.

    Args:
        folder: the path.
        evaluation: the split that ``eval`` stands for, see `split_of`.
        outer: paths whose own name is a class word but not a class here.
    """
    label, given, rest = UNLABELLED, "", []
    parts = folder.split("/") if folder else []
    for depth, part in enumerate(parts, start=1):
        if label == UNLABELLED and class_of(part) != UNLABELLED:
            words = re.split(r"[_ -]", _HUMP.sub("_", part))
            # "test_real" and "real_test" say both
            given = given or split_of(words[0], evaluation) or split_of(words[-1], evaluation) or ""
            if "/".join(parts[:depth]) in outer:
                rest.append(part)
            else:
                label = class_of(part)
        elif not given and (split := split_of(part, evaluation)):
            given = split
        else:
            rest.append(part)
    return Place(label, given, "/".join(rest))


def parse_label(value: Any, fake_is: int | None, where: str) -> int:
    """Return 0 (real), 1 (fake) or -1 (empty, ``unlabelled``, -1) for a label as written.

    Words are taken literally. ``fake_is`` says which of the numbers 0 and 1 means fake; 1 when None.

    Raises:
        DataError: for any other value, with ``where`` in the message.
    """
    text = "" if value is None else str(value).strip().lower()
    if text in ("", "nan", "unlabelled", "unlabeled", "unknown", "-1", "-1.0"):
        return UNLABELLED
    if text in ("0", "1", "0.0", "1.0"):
        return REAL if int(float(text)) != (1 if fake_is is None else fake_is) else FAKE
    if (label := class_of(text)) != UNLABELLED:
        return label
    raise DataError(f"unknown label {value!r} in {where}; write real or fake, or 0 or 1")


def image_number(name: str) -> int:
    """The number in a file name: ``test/12.png`` is 12, ``img_0012.png`` too.

    Raises:
        DataError: the name has no number, or more than one.
    """
    numbers = re.findall(r"\d+", PurePosixPath(name).stem)
    if len(numbers) != 1:
        count = "no number" if not numbers else f"{len(numbers)} numbers"
        raise DataError(
            f"'{name}' has {count} in its name, so it has no challenge index; use --form csv or probability"
        )
    return int(numbers[0])
