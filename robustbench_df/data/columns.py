"""Checks of a manifest's columns: a needed column under another name is refused."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence

from robustbench_df.data.imageset import FAKE, REAL, UNLABELLED
from robustbench_df.data.naming import class_of, split_of
from robustbench_df.errors import DataError
from robustbench_df.wording import listed

COLUMNS = ("path", "label", "group", "source", "split", "prediction")
DECISIVE = ("label", "group", "split")
"""Columns without which other things would be learnt, or what belongs together would be divided. A misspelt one is
refused."""

_PATHS = ("imagepath", "imgpath", "filepath", "filename", "file", "image", "img")
"""Usual names of the path column, without ``_``. Names that contain "path" come first: beside them, a file name is only
a part of the path."""
_LABELS = ("target", "class", "gt", "y")
"""Usual names of a numeric label column; labels in words are recognised by their values."""
_NEUTRAL = {"id", "ids", "name", "no", "true", "gt", "image", "img", "class"}
_MISSPELT = 0.7  # least similarity: "grp" is group (0.75), but a hospital's "site" is not split (0.67)
_NUMBERS, _TRUTHS = {"0", "1", "0.0", "1.0"}, {"true", "false"}


def check_names(columns: Sequence[str], file: str) -> None:
    """Refuse column names (in lower case) if a needed one is absent, repeated or misspelt.

    Raises:
        DataError: there is no ``path``, a name of `COLUMNS` occurs twice, or a name looks like a misspelt `DECISIVE`
            one that is absent.
    """
    if "path" not in columns:
        plain = {re.sub(r"[ _-]", "", column): column for column in columns}
        meant = next((plain[name] for name in _PATHS if name in plain), None)
        remedy = f"rename '{meant}' to 'path'" if meant else "add one"
        has = ", ".join(column or "''" for column in columns) or "none"
        raise DataError(f"the manifest '{file}' has no column 'path' (it has {has}); {remedy}")
    if twice := [name for name in COLUMNS if columns.count(name) > 1]:
        raise DataError(f"the manifest '{file}' has the column '{twice[0]}' twice; keep one")
    absent = [name for name in DECISIVE if name not in columns]
    for column in columns:
        if column not in COLUMNS and (name := _misspelt(column, absent)):
            raise DataError(
                f"the manifest '{file}' has no column '{name}' but '{column}'; rename it to '{name}' if that is what "
                "it holds, or leave it out"
            )


def check_values(column: str, values: Collection[str], columns: Sequence[str], file: str, fake_is: int | None) -> None:
    """Refuse an unused column whose values are split parts or labels, if the manifest has no column for these.

    Args:
        column: its name in lower case.
        values: its distinct values, without empty ones.
        columns: the names of all columns.
        file: the manifest, for the message.
        fake_is: the number that means fake, as the user gave it.

    Raises:
        DataError: the values are names of several parts and there is no ``split``, or they are labels and there is no
            ``label``.
    """
    if not values:
        return
    kind = ""
    if "split" not in columns and len(values) > 1 and all(map(split_of, values)):  # "train" alone may be a vehicle
        kind, remedy = "parts", "rename it to 'split'"
    elif "label" not in columns and all(class_of(value) != UNLABELLED for value in values):
        kind, remedy = "labels", "rename it to 'label'"
    elif "label" not in columns and (remedy := _number_remedy(column, values, fake_is)):
        kind = "labels"
    if kind:
        held = listed(sorted(values))
        raise DataError(f"column '{column}' of '{file}' holds {kind} ({held}); {remedy}, or leave it out")


def _number_remedy(column: str, values: Collection[str], fake_is: int | None) -> str:
    """Return what to do with a column of numeric or true/false labels; empty if the column holds something else."""
    named = class_of(re.sub(r"^is[ _-]?", "", column))
    lower = {value.lower() for value in values}
    if (named == UNLABELLED and column not in _LABELS) or not (lower <= _NUMBERS or lower <= _TRUTHS):
        return ""
    steps = ["rename it to 'label'"]
    if lower <= _TRUTHS:
        steps.append("write 1 for true and 0 for false")
    if named == REAL and fake_is != 0:
        steps.append("use --fake-is 0")
    elif named == FAKE and fake_is == 0:
        steps.append("leave out --fake-is 0")
    elif named == UNLABELLED and fake_is is None:
        steps.append("use --fake-is 0 if 0 means fake")
    return " and ".join([", ".join(steps[:-1]), steps[-1]] if len(steps) > 1 else steps)


def _misspelt(column: str, names: Sequence[str]) -> str:
    """Return the one of ``names`` that a column seems to be; empty for none.

    A column matches a name if it is that name with words that add nothing (``group_id``, but not ``age_group``), or is
    spelt nearly the same.
    """
    words = set(re.split(r"[\W\d_]+", column)) - {""}
    if held := [name for name in names if name in words]:
        return held[0] if words - {held[0]} <= _NEUTRAL else ""
    return next(iter(difflib.get_close_matches(column, names, 1, _MISSPELT)), "")
