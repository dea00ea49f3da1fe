"""A manifest none of whose images is there says where they were looked for and where they seem to be."""

from __future__ import annotations

import shutil

import pytest

from robustbench_df.data.sources import load_images
from robustbench_df.errors import DataError

TABLE = b"path,label\nreal/1.png,real\nfake/1.png,fake\nfake/2.png,fake"


@pytest.mark.parametrize("size", [None, 8])
@pytest.mark.parametrize(
    ("at", "there"), [("", "faces"), ("", "a/b"), ("lists", ".."), ("lists", ""), ("", "too/deep/to/find")]
)
def test_it_says_where_it_looked_and_where_they_are(folder, pair, at, there, size):
    inside = "" if there == ".." else there or "../elsewhere"
    root = folder({f"set/{inside}/{name}": raw for name, raw in pair.items()} | {f"set/{at}/m.csv": TABLE}, "root")
    table = root / "set" / at / "m.csv"
    with pytest.raises(DataError) as error:
        load_images(table, size=size)
    message = str(error.value)
    assert message.startswith(f"none of the 3 images that '{table}' lists is there, such as 'fake/1.png'; ")
    assert f"paths are relative to the manifest's folder, '{table.parent.resolve()}'; " in message
    assert "\n" not in message
    if there in ("faces", "a/b", ".."):
        assert message.endswith(f"put '{there}/' before each path, or move the manifest")
        longer = table.read_text().replace("\nreal", f"\n{there}/real").replace("\nfake", f"\n{there}/fake")
        table.with_name("longer.csv").write_text(longer)
        moved = shutil.copy(table, table.parent / there / "m2.csv")
        assert [len(load_images(again)) for again in (table.with_name("longer.csv"), moved)] == [3, 3]
    else:
        assert message.endswith("; mend the paths or move the manifest")


def test_in_an_archive_it_looks_in_every_folder(archive, pair):
    source = archive({f"a/b/c/{name}": raw for name, raw in pair.items()} | {"manifest.csv": TABLE})
    with pytest.raises(DataError, match=r"manifest's folder in the archive; they are in 'a/b/c' there: put 'a/b/c/'"):
        load_images(source, layout="manifest")


def test_one_that_is_there_is_enough_and_one_that_cannot_be_read_is_not_missing(folder, pair):
    root = folder({"real/1.png": pair["real/1.png"], "m.csv": TABLE})
    images = load_images(root / "m.csv", max_bad=1, require_classes=False)
    assert [f.kind for f in images.findings] == ["missing-image"] * 2
    (root / "real/1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"not one of the 3 images .* can be read"):
        load_images(root / "m.csv", max_bad=1, require_classes=False)
