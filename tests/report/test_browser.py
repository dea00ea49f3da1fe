"""The page in a real browser, from disk, with the network off: what a reader sees and does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustbench_df.report.browser import find_browser
from robustbench_df.report.build import write_report
from tests.report.devtools import Page, browsing
from tests.report.documents import sample

BROWSER = find_browser()
AXE = Path(os.environ.get("RDF_AXE", Path(__file__).parent / "node_modules" / "axe-core" / "axe.min.js"))

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on this machine (Debian: chromium)")

ROWS = "[...document.querySelectorAll('#scores tbody tr')].map(row => row.cells[2].dataset.v)"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(sample(), tmp_path_factory.mktemp("report")).resolve().as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert BROWSER is not None
    with browsing(BROWSER, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser: Page, url: str) -> Iterator[Page]:
    """The page freshly opened; afterwards nothing may have been asked for or complained about."""
    browser.view(1440)
    browser.call("Page.navigate", url="about:blank")
    browser.errors.clear()
    browser.requests.clear()
    browser.open(url)
    yield browser
    assert browser.errors == []
    assert [r for r in browser.requests if not r.startswith(("data:", "about:")) and r.partition("#")[0] != url] == []


def test_a_head_sorts_its_table_and_says_so(page: Page) -> None:
    before = page.run(ROWS)
    head = "document.querySelectorAll('#scores thead th')[2]"
    assert page.run(f"{head}.getAttribute('aria-sort')") is None
    page.run(f"{head}.querySelector('button').click()")
    assert page.run(f"{head}.getAttribute('aria-sort')") == "descending"
    assert page.run(ROWS) == sorted(before, key=float, reverse=True)
    page.run(f"{head}.querySelector('button').focus()")
    page.press("Enter")
    assert page.run(f"{head}.getAttribute('aria-sort')") == "ascending"
    assert page.run(ROWS) == sorted(before, key=float)


def test_what_has_no_value_is_last_both_ways(page: Page) -> None:
    last = "[...document.querySelectorAll('#scores tbody tr')].slice(-4).map(row => row.cells[3].textContent)"
    for _ in range(2):
        page.run("document.querySelectorAll('#scores thead button')[3].click()")
        assert set(page.run(last)) == {"not run", "undefined"}


def test_rows_are_filtered_by_word_and_by_group(page: Page) -> None:
    shown = "document.querySelectorAll('#{} tbody tr:not([hidden])').length"
    page.run("document.querySelector('#many input').value = 'r3'; 0")
    page.run("document.querySelector('#many input').dispatchEvent(new Event('input'))")
    assert page.run(shown.format("many")) == 11
    assert "11 of 40" in page.run("document.querySelector('#many [role=status]').textContent")
    page.run("document.querySelector('#scores select').value = 'base'; 0")
    page.run("document.querySelector('#scores select').dispatchEvent(new Event('change'))")
    assert page.run(shown.format("scores")) == 4


def test_the_theme_switches_and_stays(page: Page, url: str) -> None:
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    light = page.run(ground)
    page.run("document.getElementById('theme').click()")
    assert page.run(ground) == light
    page.run("document.getElementById('theme').click()")
    dark = page.run(ground)
    assert dark != light
    # Chromium may lose what a page stores right before it is loaded again, so the two halves are looked at apart.
    assert page.run("localStorage.getItem('rdf-theme')") == "dark"
    stored = "window.again = true; localStorage.setItem('rdf-theme', 'dark')"
    page.call("Page.reload", scriptToEvaluateOnLoad=stored)
    page.wait("window.again && document.readyState === 'complete'")
    assert "dark" in page.run("document.getElementById('theme').textContent")
    assert page.run(ground) == dark
    page.run("document.getElementById('theme').click()")
    assert page.run(ground) == light
    page.view(1440, scheme="dark")
    assert page.run(ground) == dark


def test_tabs_show_one_part_and_keys_move_between_them(page: Page) -> None:
    visible = "[...document.querySelectorAll('#detectors > .tab')].map(panel => !panel.hidden)"
    assert page.run(visible) == [True, False]
    page.run("document.querySelector('[role=tab]').focus()")
    page.press("ArrowRight")
    assert page.run(visible) == [False, True]
    assert page.run("document.activeElement.getAttribute('aria-selected')") == "true"
    assert page.run("location.hash") == "#detectors--Curves"
    assert page.run("document.querySelectorAll('[role=tab][tabindex=\"0\"]').length") == 1


@pytest.mark.parametrize("target", ["roc-log", "detectors--Curves", "many", "end"])
def test_a_deep_link_lands(page: Page, url: str, target: str) -> None:
    page.call("Page.navigate", url="about:blank")
    page.open(f"{url}#{target}")
    place = f"document.getElementById('{target}').getBoundingClientRect()"
    page.wait(f"{place}.height > 0 && {place}.top >= -1 && {place}.top < innerHeight")
    assert not page.run(f"!!document.getElementById('{target}').closest('[hidden]')")


def test_a_link_on_the_page_opens_the_tab_of_its_target_each_time(page: Page) -> None:
    for _ in range(2):
        page.run("document.querySelectorAll('[role=tab]')[1].click()")
        assert page.run("document.getElementById('detectors--Numbers').hidden") == "until-found"
        page.run("document.querySelector('.alerts a[href=\"#scores\"]').click()")
        page.wait("!document.getElementById('detectors--Numbers').hidden")


def test_a_picture_and_a_figure_can_be_enlarged(page: Page) -> None:
    for button in ("#attacked .zoom", "#epsilon .zoom"):
        before = page.run(
            f"document.querySelector('{button}').closest('.shot, figure').querySelector('svg').clientWidth"
        )
        page.run(f"document.querySelector('{button}').click()")
        assert page.run("document.getElementById('zoom').open")
        assert page.run("document.querySelector('#zoom svg').clientWidth") > 1.5 * before
        assert page.run("document.querySelector('#zoom .caption').textContent.length") > 3
        page.press("Escape")
        page.wait("!document.getElementById('zoom').open")


def test_pictures_are_drawn_in_whole_pixels(page: Page) -> None:
    style = "getComputedStyle(document.querySelector('.sprite image')).imageRendering"
    assert page.run(style) == "pixelated"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 768, 390])
def test_the_page_never_scrolls_sideways(page: Page, width: int, scheme: str) -> None:
    page.view(width, scheme=scheme)
    for panel in ("detectors--Numbers", "detectors--Curves"):
        page.run(f"location.hash = '#{panel}'")
        page.wait(f"!document.getElementById('{panel}').hidden")
        assert page.run("document.documentElement.scrollWidth") <= width


def test_without_a_script_everything_is_there(page: Page, url: str) -> None:
    page.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        page.call("Page.reload")
        page.wait("document.readyState === 'complete' && !document.documentElement.classList.contains('js')")
        heights = "[...document.querySelectorAll('.tab, .block')].map(part => part.getBoundingClientRect().height)"
        assert min(page.run(heights)) > 20
        assert page.run("getComputedStyle(document.querySelector('#theme')).display") == "none"
    finally:
        page.call("Emulation.setScriptExecutionDisabled", value=False)


def test_print_shows_every_tab_on_white(page: Page) -> None:
    page.view(1440, scheme="dark", media="print")
    heights = "[...document.querySelectorAll('.tab')].map(part => part.getBoundingClientRect().height)"
    assert min(page.run(heights)) > 100
    assert page.run("getComputedStyle(document.documentElement).colorScheme") == "light"
    page.view(1440)


@pytest.mark.skipif(not AXE.is_file(), reason="no axe-core; npm install --prefix tests/report, or RDF_AXE=axe.min.js")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 390])
def test_nobody_is_shut_out(page: Page, width: int, scheme: str) -> None:
    page.view(width, scheme=scheme)
    page.run(AXE.read_text() + "; 0")
    found = page.run(
        "axe.run(document).then(done => done.violations.filter(v => ['serious', 'critical'].includes(v.impact))"
        ".map(v => v.id + ': ' + v.nodes.slice(0, 4).map(n => n.html.slice(0, 200) + n.failureSummary).join(' | ')))"
    )
    assert found == []
