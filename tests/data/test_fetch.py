from __future__ import annotations

import hashlib
import io
import re
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from rich.console import Console
from rich.filesize import decimal

from robustbench_df.cli import console
from robustbench_df.cli.data import DownloadProgress
from robustbench_df.data import fetch
from robustbench_df.data.fetch import fetch_cifake
from robustbench_df.data.sources import load_images
from robustbench_df.errors import DataError, UsageError


class Site:
    """What the test server serves, how it misbehaves, and what it was asked."""

    def __init__(self) -> None:
        self.body = b""
        self.etag = '"one"'
        self.ranges = True
        self.if_range = True
        self.length = True
        self.cut_after: list[int] = []
        self.asked: list[str | None] = []
        self.url = ""


@pytest.fixture
def site():
    state = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers.get("Range")
            state.asked.append(wanted)
            if self.path != "/main.zip":
                self.send_error(404)
                return
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and state.ranges else 0
            if state.if_range and self.headers.get("If-Range") not in (None, state.etag):
                start = 0
            if start and start >= len(state.body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(state.body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = state.body[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(state.body) - 1}/{len(state.body)}")
            if state.length:
                self.send_header("Content-Length", str(len(body)))
            if state.etag:
                self.send_header("ETag", state.etag)
            self.end_headers()
            self.wfile.write(body[: state.cut_after.pop(0)] if state.cut_after else body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/main.zip"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def body(archive, pair):
    return archive({f"CIFAKE-main/train/{name}": raw for name, raw in pair.items()}).read_bytes()


def leftovers(dest):
    return sorted(p.name for p in dest.parent.iterdir() if p.name.startswith((dest.name + ".", "." + dest.name)))


def test_fetches_unpacks_reports_and_does_nothing_the_second_time(site, body, tmp_path):
    site.body, seen = body, []
    dest = tmp_path / "deep" / "cifake"
    digest = hashlib.sha256(body).hexdigest().upper()
    assert fetch_cifake(dest, url=site.url, sha256=digest, progress=lambda *p: seen.append(p)) == dest
    assert seen[0] == (0, len(body))
    assert seen[-1] == (len(body), len(body))
    images = load_images(dest)
    assert list(images.ids)[:2] == ["train/fake/1.png", "train/fake/2.png"]
    assert images.findings == ()
    assert leftovers(dest) == []
    assert fetch_cifake(dest, url=site.url) == dest
    assert site.asked == [None]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_connection_is_taken_up_again_at_once(site, body, tmp_path, ranges):
    site.body, site.ranges, site.cut_after = body, ranges, [100, 300]
    fetch_cifake(tmp_path / "cifake", url=site.url)
    assert site.asked == [None, "bytes=100-", f"bytes={400 if ranges else 300}-"]
    assert len(load_images(tmp_path / "cifake")) == 4


def test_a_dead_connection_keeps_what_came_and_the_next_call_resumes(site, body, tmp_path):
    dest = tmp_path / "cifake"
    site.body, site.cut_after = body, [200, 0]
    with pytest.raises(DataError, match="after 200 bytes; check the connection") as error:
        fetch_cifake(dest, url=site.url)
    assert "\n" not in str(error.value)
    assert not dest.exists()
    site.asked.clear()
    fetch_cifake(dest, url=site.url)
    assert site.asked == ["bytes=200-"]
    assert len(load_images(dest)) == 4


@pytest.mark.parametrize("if_range", [True, False])
def test_a_file_that_changed_meanwhile_starts_afresh(site, body, tmp_path, if_range):
    dest = tmp_path / "cifake"
    site.body, site.cut_after = bytes(len(body)), [200, 0]
    with pytest.raises(DataError):
        fetch_cifake(dest, url=site.url)
    site.body, site.etag, site.if_range = body, '"two"', if_range
    fetch_cifake(dest, url=site.url)
    assert len(load_images(dest)) == 4


def test_a_complete_part_is_recognised_by_416(site, body, tmp_path):
    dest = tmp_path / "cifake"
    site.body, site.cut_after = body, [200, 0]
    with pytest.raises(DataError):
        fetch_cifake(dest, url=site.url)
    part = tmp_path / "cifake.zip.part"
    part.write_bytes(body)
    site.asked.clear()
    fetch_cifake(dest, url=site.url)
    assert site.asked == [f"bytes={len(body)}-"]
    assert len(load_images(dest)) == 4


def test_a_part_longer_than_the_file_starts_afresh(site, body, tmp_path):
    dest = tmp_path / "cifake"
    site.body, site.cut_after = body, [200, 0]
    with pytest.raises(DataError):
        fetch_cifake(dest, url=site.url)
    (tmp_path / "cifake.zip.part").write_bytes(body + b"more")
    fetch_cifake(dest, url=site.url)
    assert len(load_images(dest)) == 4


def test_no_length_and_a_weak_etag_still_work(site, body, tmp_path):
    site.body, site.length, site.etag = body, False, 'W/"weak"'
    seen = []
    fetch_cifake(tmp_path / "cifake", url=site.url, progress=lambda *p: seen.append(p))
    assert seen[-1] == (len(body), None)


def test_damaged_archives_and_wrong_digests_leave_nothing(site, body, pair, tmp_path):
    dest = tmp_path / "cifake"
    start = body.index(pair["real/1.png"]) + 50
    site.body = body[:start] + bytes(5) + body[start + 5 :]
    with pytest.raises(DataError, match=r"train/real/1\.png.*it was deleted") as error:
        fetch_cifake(dest, url=site.url)
    assert "\n" not in str(error.value)
    site.body = b"<html>rate limited</html>"
    with pytest.raises(DataError, match="unusable"):
        fetch_cifake(dest, url=site.url)
    site.body = body
    with pytest.raises(DataError, match="has the SHA-256"):
        fetch_cifake(dest, url=site.url, sha256="0" * 64)
    assert not dest.exists()
    assert leftovers(dest) == []


def test_entries_that_escape_spoil_the_whole_archive(site, archive, pair, tmp_path):
    site.body = archive(pair | {"../evil.png": b"x"}).read_bytes()
    with pytest.raises(DataError, match=r"'\.\./evil\.png' leads out of the archive"):
        fetch_cifake(tmp_path / "in" / "cifake", url=site.url)
    assert list(tmp_path.rglob("evil.png")) == []


def test_archives_within_the_archive_become_folders(site, archive, pair, tmp_path):
    def packed(prefix):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as inner:
            for name, raw in pair.items():
                inner.writestr(prefix + name, raw)
        return buffer.getvalue()

    site.body = archive(
        {"main/train.zip": packed("train/"), "main/test.zip": packed(""), "main/x.md": b""}
    ).read_bytes()
    fetch_cifake(tmp_path / "cifake", url=site.url)
    images = load_images(tmp_path / "cifake")
    assert sorted({i.rsplit("/", 1)[0] for i in images.ids}) == ["test/fake", "test/real", "train/fake", "train/real"]
    assert set(images.sources) == {""}


@pytest.mark.parametrize("length", [True, False])
def test_a_download_is_told_in_plain_lines_whether_or_not_its_length_is_known(
    site, body, tmp_path, monkeypatch, capsys, length
):
    monkeypatch.setattr(console, "PLAIN_EVERY", 0.0)
    monkeypatch.setattr(fetch, "_BLOCK", 128)
    site.body, site.length = body, length
    fetch_cifake(tmp_path / "cifake", url=site.url, progress=DownloadProgress(console.PlainReporter()))
    first, *more = capsys.readouterr().err.splitlines()
    whole = f" of {decimal(len(body))}" if length else " so far"
    assert first == f"downloading: 0 bytes{whole}"
    assert len(more) == -(-len(body) // 128)
    assert re.fullmatch(re.escape(f"downloading: {decimal(len(body))}{whole}") + r", [\d.,]+ \w+/s", more[-1])


def test_without_a_length_the_bar_moves_beside_the_bytes_and_their_rate(site, body, tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    screen = Console(file=io.StringIO(), force_terminal=True, width=120)
    monkeypatch.setattr(console, "err", screen)
    monkeypatch.setattr(fetch, "_BLOCK", 128)
    site.body, site.length = body, False
    with console.reporting(quiet=False) as reporter:
        fetch_cifake(tmp_path / "cifake", url=site.url, progress=DownloadProgress(reporter))
        (task,) = reporter._progress.tasks
        assert (task.total, task.completed) == (None, len(body))
    assert re.search(re.escape(f"{decimal(len(body))} so far, ") + r"[\d.,]+ \w+/s", screen.file.getvalue())


def test_refusals_are_one_line(site, body, tmp_path):
    with pytest.raises(DataError, match="the server answered 404"):
        fetch_cifake(tmp_path / "a", url=site.url + "x")
    with pytest.raises(DataError, match=r"cannot fetch 'http://127\.0\.0\.1:9/x\.zip'"):
        fetch_cifake(tmp_path / "a", url="http://127.0.0.1:9/x.zip")
    with pytest.raises(UsageError, match="must begin with https"):
        fetch_cifake(tmp_path / "a", url="file:///etc/passwd")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(DataError, match="already holds other files; choose another folder"):
        fetch_cifake(tmp_path / "mine", url=site.url)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="already holds other files"):
        fetch_cifake(tmp_path / "file", url=site.url)
