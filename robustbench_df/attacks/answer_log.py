"""A log file of answers: no image is queried twice, and a killed attack that is restarted resumes where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

from robustbench_df.attacks.asking import probabilities
from robustbench_df.errors import ModelError, RunError, kind_and_line


def read_log(path: Path) -> dict[bytes, float]:
    """Read the answers of a log and truncate a last line that a killed process left unfinished."""
    answers: dict[bytes, float] = {}
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return answers
    except OSError as error:
        raise RunError(f"the log '{path}' cannot be read ({kind_and_line(error)}); name another file") from error
    *lines, rest = raw.split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            answers[bytes.fromhex(entry["image"])] = probabilities([entry["fake"]], 1, "the log")[0]
        except (ValueError, KeyError, TypeError, ModelError) as error:
            raise RunError(
                f"line {number} of '{path}' is no answer ({kind_and_line(error)}); delete the file"
            ) from error
    if rest:
        with path.open("r+b") as file:
            file.truncate(len(raw) - len(rest))
    return answers


def append_log(path: Path, found: dict[bytes, float]) -> None:
    """Append answers in one write, so that a killed process leaves at most the last line unfinished."""
    lines = "".join(json.dumps({"image": key.hex(), "fake": p}) + "\n" for key, p in found.items())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(lines.encode())
    except OSError as error:
        raise RunError(f"the log '{path}' cannot be written ({kind_and_line(error)}); name another file") from error
