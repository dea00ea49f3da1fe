"""Each answer finds its image by any usual form of its name; a file that is no submission is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robustbench_df.audit.submission import match, read_submission
from robustbench_df.data.imageset import image_set_from_arrays
from robustbench_df.errors import DataError
from tests.conftest import learnable_set


def test_names_are_matched_in_all_their_forms() -> None:
    pool = learnable_set(14)
    ids = [*(f"real/{k}.png" for k in range(6)), *(f"test/{k}.png" for k in range(1, 9))]
    images = image_set_from_arrays(pool.data, [0] * 6 + [-1] * 8, ids=ids)
    rows = np.flatnonzero(images.labels == -1)
    found = match(["test/7.png", "7.png", "7", "007", "7.jpg", "nine", ""], images, rows)
    assert found.tolist() == [6, 6, 6, 6, -1, -1, -1]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[]", "holds no predictions"),
        ("{}", "list of objects"),
        ("[1, 2", "no JSON"),
        ('[{"foo": 1}]', "names no images"),
        ('[{"index": 1}]', "says nothing"),
    ],
)
def test_a_file_that_is_no_submission_is_refused_in_one_line(content: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    path.write_text(content)
    with pytest.raises(DataError, match=reason):
        read_submission(path)
    with pytest.raises(DataError, match="No such file"):
        read_submission(tmp_path / "nowhere.json")
    (tmp_path / "broken.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="cannot read"):
        read_submission(tmp_path / "broken.zip")
