"""The page: self-contained, true to the document, harmless with awkward names, readable without a script."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from urllib.parse import unquote

import pytest

from robustbench_df.report.document import Block, Column, Document, Estimate, Section, Table, Text, as_json
from robustbench_df.report.formatting import csv_of, parts, slug, visible
from robustbench_df.report.page import render, results_json
from tests.report import documents
from tests.report.documents import NASTY, sample, scores


class Reader(HTMLParser):
    """Collects tags with their attributes, and text by the tag it stands in."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def attributes(self, name: str) -> list[str]:
        return [str(attributes[name]) for _, attributes in self.tags if name in attributes]

    def having(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == tag and all(a.get(k) == v for k, v in wanted.items())]


@pytest.fixture(scope="module")
def html() -> str:
    return render(sample())


@pytest.fixture(scope="module")
def page(html: str) -> Reader:
    return Reader(html)


def test_the_same_document_gives_the_same_bytes(html: str) -> None:
    assert render(sample()) == html


def test_nothing_is_loaded_from_anywhere(html: str, page: Reader) -> None:
    assert "http://" not in html
    assert "https://" not in html
    links = page.attributes("href") + page.attributes("src")
    assert links
    assert {link.split(",")[0].split(":")[0] if not link.startswith("#") else "#" for link in links} == {"#", "data"}
    assert not [tag for tag, _ in page.tags if tag in ("link", "iframe", "object", "embed", "base", "form")]


def test_the_policy_names_the_style_and_the_script_and_nothing_needs_more(html: str, page: Reader) -> None:
    (policy,) = page.having("meta", **{"http-equiv": "Content-Security-Policy"})
    content = str(policy["content"])
    assert content.startswith("default-src 'none';")
    assert "unsafe" not in content
    for tag in ("style", "script"):
        (body,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in content
    assert not page.attributes("style")
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_hand_written_script_is_small() -> None:
    script = resources.files("robustbench_df.report").joinpath("templates", "page.js").read_bytes()
    assert len(script) <= 30_000


def test_what_must_be_read_first_stands_first(html: str) -> None:
    order = ["Ship the ensemble", "Copies across the split", "No test part", 'class="toc"', "How good each is."]
    places = [html.index(part) for part in order]
    assert places == sorted(places)


def test_every_anchor_is_there_once_and_every_link_lands(page: Reader) -> None:
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    targets = {link[1:] for link in page.attributes("href") if link.startswith("#")}
    assert {"detectors", "data", "scores"} <= targets
    assert targets <= set(ids)
    assert "nowhere" not in targets
    for name in ("aria-labelledby", "aria-controls"):
        assert set(page.attributes(name)) <= set(ids)


def test_names_are_harmless_and_legible(html: str, page: Reader) -> None:
    assert "<script>alert" not in html
    assert "\u202e" not in html
    assert html.count("<script>") == 1
    shown = "".join(page.text)
    assert "<script>alert(1)</script>\"'\\u202egnp.exe\\n$x_1$" in shown
    assert "caf\\udce9.png" in shown
    html.encode("utf-8")


def test_cells_say_what_is_missing_and_what_is_undefined(page: Reader) -> None:
    text = "".join(page.text)
    assert "92.0%" in text
    assert "[90.0, 94.0]" in text
    assert "not run" in text
    assert "undefined" in text
    assert page.having("td", title="n = 1,234")


def test_every_estimate_of_the_document_is_on_the_page_and_a_changed_one_changes_it(html: str) -> None:
    document = sample()
    values = [v for row in scores().rows for v in row.values() if isinstance(v, Estimate) and v.value is not None]
    for value in values:
        assert f'data-v="{value.value:.9g}"' in html
    table = scores()
    rows = [dict(row) for row in table.rows]
    rows[3]["accuracy"] = Estimate(0.123456, 0.1, 0.2, 7)
    changed = replace(document.sections[0], blocks=[replace(table, rows=rows), *document.sections[0].blocks[1:]])
    other = render(replace(document, sections=[changed, *document.sections[1:]]))
    assert "12.3%" in other
    assert "12.3%" not in html
    assert other != html


def test_tables_have_heads_scopes_names_and_downloads(page: Reader) -> None:
    tables = [a for t, a in page.tags if t == "table"]
    assert all(a.get("aria-labelledby") for a in tables)
    scopes = [a.get("scope") for t, a in page.tags if t == "th"]
    assert set(scopes) == {"col", "row"}
    files = {str(a["download"]): str(a["href"]) for a in page.having("a") if "download" in a}
    assert set(files) == {"results.json.gz", "scores.csv", "names.csv", "many.csv"}
    assert base64.b64decode(files["scores.csv"].split(",")[1]).decode() == csv_of(scores())
    packed = base64.b64decode(files["results.json.gz"].split(",")[1])
    assert json.loads(gzip.decompress(packed)) == json.loads(results_json(sample()))


def test_pictures_are_embedded_once_and_only_when_shown(html: str, page: Reader) -> None:
    images = [str(a["href"]) for a in page.having("image")]
    assert len(images) == len(set(images)) == 4
    assert len(page.having("use", href="#_pic-0")) == 2
    assert all(image.startswith("data:image/png;base64,") for image in images)


def test_figures_have_a_text_alternative_and_unmixed_ids(html: str, page: Reader) -> None:
    drawings = page.having("svg", role="img")
    assert all(a["aria-label"] for a in drawings)
    assert len(drawings) == 9
    for drawing in re.findall(r'<svg class="plot".*?</svg>', html, re.DOTALL):
        ids = set(re.findall(r' id="([^"]+)"', drawing))
        used = {unquote(name) for name in re.findall(r'(?:url\(|href=")#([^)"]+)', drawing)}
        assert used == ids


@pytest.mark.parametrize(
    "broken",
    [
        replace(sample(), sections=[Section("a", "A", "", [Text("x", "b")]), Section("b", "B", "", [])]),
        replace(sample(), sections=[Section("zoom", "A", "", [])]),
        replace(sample(), pictures={}),
        replace(sample(), pictures=dict.fromkeys("abcd", b"GIF89a")),
    ],
    ids=["double", "reserved", "missing picture", "no PNG"],
)
def test_a_document_that_contradicts_itself_is_refused(broken: Document) -> None:
    with pytest.raises(ValueError, match="report"):
        render(broken)


def test_an_empty_document_is_a_page() -> None:
    empty = Document("t", "", [], [], [], {}, {}, {})
    assert "<main" in render(empty)
    table = Table("none", "None", [Column("a", "A")], [], group="a")
    assert 'id="none"' in render(replace(empty, sections=[Section("s", "S", "", [table])]))


def test_a_heading_begins_a_row_of_figures() -> None:
    figure = documents.loss()
    shown = [replace(figure, id=name) for name in "abcd"]
    blocks: list[Block] = [*shown[:2], Text(NASTY, head=True), *shown[2:]]
    html = render(replace(sample(), sections=[Section("s", "S", "", blocks)], alerts=[], exports={}))
    main = html[html.index("<main") :]
    assert [row.count("<figure") for row in main.split('class="grid"')[1:]] == [2, 2]
    assert re.search(r'<h3 class="sub"><bdi>[^<]*&lt;', main)


def test_no_line_break_takes_an_option_apart_and_nothing_else_is_marked_up() -> None:
    section = Section("s", "S", "", [Text("rdf attack --checks all <b>--x</b>")])
    assert 'rdf attack <span class="option">--checks</span> all &lt;b&gt;--x&lt;/b&gt;' in render(
        replace(sample(), sections=[section], exports={})
    )


def test_results_json_survives_a_name_that_is_no_text_and_figures_that_are_no_numbers() -> None:
    table = Table("t", "T", [Column("a", "A")], [{"a": "\udce9"}, {"a": float("nan")}, {"a": float("inf")}])
    document = replace(sample(), sections=[Section("s", "S", "", [table])])
    rows = json.loads(results_json(document))["sections"][0]["blocks"][0]["rows"]
    assert rows == [{"a": "\udce9"}, {"a": None}, {"a": None}]
    assert as_json(document)["schema"] == json.loads(results_json(document))["schema"]


def test_csv_has_raw_numbers_and_runs_nothing() -> None:
    names = next(b for s in sample().sections for b in s.blocks if isinstance(b, Table) and b.id == "names")
    rows = list(csv.reader(io.StringIO(csv_of(names))))
    assert rows[0] == ["image", "count"]
    cells = [row[0] for row in rows[1:]]
    assert cells[1:6] == ["'=HYPERLINK(1)", "'+1", "'-1", "'@x", "'\\ttab"]
    assert not [cell for cell in cells if cell[0] in "=+-@\t\r"]
    found = list(csv.DictReader(io.StringIO(csv_of(scores()))))
    assert (found[0]["accuracy"], found[0]["accuracy_low"], found[0]["accuracy_n"]) == ("0.9", "0.88", "1234")
    assert found[2]["auc"] == "not run"
    assert (found[4]["auc"], found[4]["auc_n"]) == ("undefined", "1234")
    assert found[0]["parameters"] == "11173962"


@pytest.mark.parametrize(
    ("value", "kind", "shown"),
    [
        (Estimate(0.927, 0.915, 0.938, 10), "percent", ("92.7%", "[91.5, 93.8]")),
        (Estimate(0.927), "percent", ("92.7%", "")),
        (Estimate(0.01, -0.0004, 0.02), "percent", ("1.0%", "[0.0, 2.0]")),
        (Estimate(0.00003, 0.0, 0.0004), "number", ("0.000", "[0.000, 0.000]")),
        (Estimate(None), "percent", ("undefined", "")),
        (float("nan"), "number", ("undefined", "")),
        (None, "count", ("not run", "")),
        (0.0, "percent", ("0.0%", "")),
        (-0.042, "percent", ("−4.2%", "")),
        (0.98123, "number", ("0.981", "")),
        (0.00001234, "number", ("1.2e−05", "")),
        (11_173_962, "count", ("11,173,962", "")),
        (11_173_962.0, "count", ("11,173,962", "")),
        (0.00312, "seconds", ("3.12 ms", "")),
        (0.000012, "seconds", ("12 µs", "")),
        (0.0, "seconds", ("0 s", "")),
        (75.25, "seconds", ("75.2 s", "")),
        (544.0, "seconds", ("9 min", "")),
        (9_000.0, "seconds", ("2 h 30 min", "")),
        (512, "bytes", ("512 bytes", "")),
        (43_200_000, "bytes", ("43.2 MB", "")),
        (2e12, "bytes", ("2000.0 GB", "")),
        (True, "text", ("yes", "")),
        ("a\tb", "text", ("a\\tb", "")),
        (float("inf"), "number", ("∞", "")),
    ],
)
def test_how_values_are_written(value: object, kind: str, shown: tuple[str, str]) -> None:
    assert parts(value, kind) == shown  # type: ignore[arg-type]


def test_hidden_letters_are_spelt_out_and_others_left_alone() -> None:
    assert visible("a\u202eb\x00\u2066\ufeff") == "a\\u202eb\\x00\\u2066\\ufeff"
    assert visible("ε 0.02 · naïve — اسم 图") == "ε 0.02 · naïve — اسم 图"


@pytest.mark.parametrize(
    ("name", "anchor"),
    [("timm:resnet18", "timm-resnet18"), ("../../etc/passwd", "etc-passwd"), ("...", "unnamed"), ("a b", "a-b")],
)
def test_anchors_are_file_names_that_lead_nowhere(name: str, anchor: str) -> None:
    assert slug(name) == anchor
    assert "/" not in slug(NASTY)
