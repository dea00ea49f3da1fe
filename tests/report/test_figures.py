"""The drawings: deterministic, small, themed, true to their data."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from robustbench_df.errors import UsageError
from robustbench_df.report.document import Curves, Estimate, Figure, Heat, Points, Section, Series, Table
from robustbench_df.report.drawing.canvas import COLOURS
from robustbench_df.report.drawing.grids import _badness
from robustbench_df.report.export import draw_export, draw_exports
from robustbench_df.report.figures import look_of, size, svg_of
from tests.report import documents
from tests.report.documents import NASTY, sample

EVERY: tuple[Figure, ...] = tuple(b for s in sample().sections for b in s.blocks if isinstance(b, Figure))


def draw(figure: Figure) -> str:
    return svg_of(figure, look_of(sample()))


def words(svg: str) -> list[str]:
    return [node.text or "" for node in ElementTree.fromstring(svg).iter("text")]


@pytest.mark.parametrize("figure", EVERY, ids=lambda figure: figure.id)
def test_a_drawing_fits_into_a_strict_page(figure: Figure) -> None:
    svg = draw(figure)
    assert svg == draw(figure)
    assert "style" not in svg
    assert "http" not in svg
    assert "<metadata" not in svg
    assert len(svg) < 15_000
    root = ElementTree.fromstring(svg)
    assert root.get("aria-label") == figure.alt
    assert root.get("viewBox") == "0 0 {:g} {:g}".format(*(round(x, 1) for x in size(figure)))
    # Text and axes follow the theme; only what lies on a coloured cell has a colour of its own.
    inked = {node.get("fill") for node in root.iter("text")}
    assert inked <= {None, "#111111", "#fffaf2"}


def test_another_value_is_another_drawing() -> None:
    figure = documents.epsilon()
    line = figure.series[-1]
    changed = replace(figure, series=[*figure.series[:-1], replace(line, y=[0.5, *line.y[1:]])])
    assert draw(changed) != draw(figure)


def test_a_gap_is_a_gap() -> None:
    whole = Curves("c", "C", "c", "x", "y", [Series("real", list(range(30)), [1.0] * 30)])
    y: list[float | None] = [1.0] * 15 + [None] + [1.0] * 14
    torn = replace(whole, series=[Series("real", list(range(30)), y)])
    colour = look_of(sample()).colours["real"]

    def pieces(figure: Curves) -> int:
        root = ElementTree.fromstring(draw(figure))
        lines = [n.get("d") or "" for n in root.iter("path") if n.get("stroke") == colour]
        return max(lines, key=len).count("M")  # the other is the legend's

    assert (pieces(whole), pieces(torn)) == (1, 2)


def test_shares_are_never_drawn_as_a_magnified_slice_and_neighbours_share_their_axis() -> None:
    high = Curves("high", "H", "h", "x", "y", [Series("real", [0, 1], [0.90, 0.91])], percent=True)
    low = replace(high, id="low", series=[Series("real", [0, 1], [0.90, 0.31])])
    other = replace(high, id="other", y_label="z")
    look = look_of(replace(sample(), sections=[Section("s", "S", "", [high, low, other])]))
    assert look.floors == {"high": 0, "low": 0, "other": 0.5}
    assert "0%" in words(svg_of(high, look))
    assert "0%" not in words(svg_of(other, look))
    assert {"50%", "100%"} <= set(words(svg_of(other, look)))


def test_a_log_axis_leaves_zero_out_and_needs_no_formula() -> None:
    assert {"0.01", "0.1", "1"} <= set(words(draw(documents.roc("log"))))
    only_zero = Curves("c", "C", "c", "x", "y", [Series("real", [0.0], [0.5])], x_scale="log", diagonal=True)
    draw(only_zero)


def test_one_point_shows_its_interval() -> None:
    figure = Curves("c", "C", "c", "x", "y", [Series("real", [0.1], [0.5], [0.4], [0.6])])
    bare = replace(figure, series=[Series("real", [0.1], [0.5])])
    assert len(draw(figure)) > len(draw(bare))


def test_a_heat_map_says_every_value_and_what_was_not_run() -> None:
    heat = documents.heat()
    text = words(draw(heat))
    assert "not run" in text
    for row in heat.values:
        for value in row:
            assert value is None or f"{100 * value:.0f}" in text
    for name in (*heat.rows, *heat.columns):
        assert name in text


def test_the_darker_the_worse() -> None:
    heat = Heat("h", "H", "h", ["a"], ["1", "2"], [[0.2, 0.9]], "accuracy")
    assert _badness(0.7, heat) > _badness(0.9, heat)
    error = replace(heat, better="lower")
    assert _badness(0.2, error) < _badness(0.4, error)
    assert _badness(0.5, heat) == _badness(0.1, heat) == 1
    assert _badness(0.5, error) == _badness(0.9, error) == 1
    assert _badness(1.0, heat) == _badness(0.0, error) == 0
    draw(replace(heat, values=[[None, None]]))
    draw(replace(heat, values=[[3.0, 3.0]], percent=False))


def test_a_confusion_matrix_says_counts_and_shares() -> None:
    text = words(draw(documents.confusion()))
    assert {"582", "35", "51", "566", "94.3% of real", "8.3% of fake"} <= set(text)
    assert "no such images" in words(draw(replace(documents.confusion(), counts=[[0, 0], [1, 2]])))


def test_points_name_each_point_and_what_could_not_be_drawn() -> None:
    text = words(draw(documents.points()))
    assert {"resnet_se", "efficientnet_b0", "convnext_tiny"} <= set(text)
    assert any("not drawn, undefined: ensemble" in word for word in text)
    nothing = Points("p", "P", "p", "x", "y", ["real"], [Estimate(None)], [Estimate(None)])
    draw(nothing)


def test_awkward_names_are_drawn_as_they_are() -> None:
    heat = Heat("h", "H", NASTY, [NASTY], [NASTY], [[0.5]], NASTY)
    shown = "<script>alert(1)</script>\"'\\u202egnp.exe\\n$x_1$"
    svg = draw(heat)
    assert words(svg).count(shown) == 2
    assert "<script" not in svg


def test_a_name_has_one_colour_and_neighbours_have_others() -> None:
    colours = look_of(sample()).colours
    for figure in (documents.roc(), documents.epsilon()):
        used = [colours[series.name] for series in figure.series]
        assert len(set(used)) == len(used)
    assert set(colours.values()) <= set(COLOURS)


def test_exports_are_composed_deterministic_and_complete(tmp_path: Path) -> None:
    document = sample()
    files = draw_exports(document, tmp_path / "a")
    assert {path.name for path in files} == {f"{n}.{k}" for n in document.exports for k in ("png", "svg")}
    again = draw_exports(document, tmp_path / "b")
    assert [path.read_bytes() for path in files] == [path.read_bytes() for path in again]
    with Image.open(tmp_path / "a" / "ensemble_comparison.png") as image:
        assert image.width > 2 * 340
    svg = (tmp_path / "a" / "ensemble_comparison.svg").read_text()
    for title in ("Accuracy over ε", "Severity", "Pareto"):
        assert title in svg
    assert "<image" in (tmp_path / "a" / "resnet_se_gradcam.svg").read_text()


def test_an_export_of_what_is_no_figure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be drawn"):
        draw_export(sample(), "x", ["scores"], tmp_path)
    with pytest.raises(ValueError, match="nothing"):
        draw_export(sample(), "x", ["nothing"], tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="file"):
        draw_export(sample(), "x", ["loss"], tmp_path / "file")


def test_drawing_leaves_no_state_behind() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    draw(documents.roc())
    assert dict(matplotlib.rcParams) == before
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_paths_are_short() -> None:
    paths = re.findall(r' d="([^"]*)"', draw(documents.roc()))
    assert len(paths) >= len(documents.roc().series)
    for path in paths:
        assert not re.search(r"\.\d\d|\n| L|L ", path)


def test_tables_are_no_figures() -> None:
    assert not isinstance(documents.scores(), Figure)
    assert isinstance(documents.scores(), Table)
