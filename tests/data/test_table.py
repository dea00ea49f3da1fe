"""The bytes of a table: separators and encodings that are clear are read, what is not is refused."""

from __future__ import annotations

import io
import os

import pandas as pd
import pytest

from robustbench_df.data.sources import load_images
from robustbench_df.data.table import read_table
from robustbench_df.errors import DataError

ROWS = ("path,label,group", "real/1.png,real,a", "fake/1.png,fake,b")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_table_of_excel_is_read_as_one_of_commas_is(folder, pair, separator, encoding, end):
    text = end.join(row.replace(",", separator) for row in ROWS)
    root = folder(pair | {"m.csv": text.encode(encoding)})
    images = load_images(root / "m.csv")
    assert list(images.ids) == ["fake/1.png", "real/1.png"]
    assert (images.labels.tolist(), list(images.groups), images.findings) == ([1, 0], ["b", "a"], ())


def test_the_other_byte_order_is_read_too():
    columns, rows = read_table(b"\xfe\xff" + "path\nä.png".encode("utf-16-be"), "m.csv")
    assert (columns, list(rows)) == (["path"], [["ä.png"]])


@pytest.mark.parametrize(
    ("text", "columns", "row"),
    [
        ("path;label,group\na;b,c", ["path;label", "group"], ["a;b", "c"]),
        ('path;"label, as given"\na,b;c', ["path", "label, as given"], ["a,b", "c"]),
        ("path\na;b.png", ["path"], ["a;b.png"]),
        ("path,label\na;b.png,0", ["path", "label"], ["a;b.png", "0"]),
    ],
)
def test_the_header_alone_says_the_separator_and_where_it_holds_two_it_is_the_comma(text, columns, row):
    assert read_table(text.encode(), "m.csv")[0] == columns
    assert list(read_table(text.encode(), "m.csv")[1]) == [row]


def test_half_a_character_is_one_line(folder, pair):
    root = folder(pair | {"m.csv": "\n".join(ROWS).encode("utf-16") + b"\0"})
    with pytest.raises(DataError, match=r"cannot read 'm.csv' as UTF-16 \(.*\); save it as UTF-8$"):
        load_images(root / "m.csv")


@pytest.mark.parametrize("image", [{"bytes": b"\x89PNG", "path": "1.png"}, b"\x89PNG"])
def test_a_parquet_of_the_images_themselves_is_to_be_exported(folder, pair, image):
    raw = pd.DataFrame({"image": [image] * 2, "label": [0, 1]}).to_parquet()
    root = folder({"train.parquet": raw})
    for source in (root, root / "train.parquet"):
        with pytest.raises(DataError, match=r"holds the images themselves \(column 'image'\), .*real/ and fake/$"):
            load_images(source)
    # With a path of its own such a column is one of those that are not used.
    table = pd.DataFrame({"image": [image] * 2, "path": ["real/1.png", "fake/1.png"], "label": [0, 1]})
    images = load_images(folder(pair | {"m.parquet": table.to_parquet()}, "paths") / "m.parquet")
    assert [f.detail for f in images.findings] == ["column 'image' is not used"]


def test_a_parquet_gives_words_numbers_and_categories(folder, pair):
    table = pd.DataFrame({"path": ["real/1.png", "fake/1.png"], "label": pd.Categorical(["real", "fake"])})
    buffer = io.BytesIO()
    table.assign(taken=pd.Timestamp(0), boxes=[[1, 2], [3]], split=["train", None]).to_parquet(buffer)
    images = load_images(folder(pair | {"m.parquet": buffer.getvalue()}) / "m.parquet")
    assert (images.labels.tolist(), list(images.given)) == ([1, 0], ["", "train"])
    assert sorted(f.detail for f in images.findings) == [f"column '{c}' is not used" for c in ("boxes", "taken")]
    assert os.fspath(images.origin).endswith("m.parquet")
