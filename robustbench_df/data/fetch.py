"""Fetch the CIFAKE images with urllib alone: resumable, verified, unpacked whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from robustbench_df.data.archive import ZipStore
from robustbench_df.data.layouts import unwrap
from robustbench_df.data.stores import Store, Unreadable
from robustbench_df.errors import DataError, UsageError

CIFAKE_URL = "https://github.com/jordan-bird/CIFAKE-Real-and-AI-Generated-Synthetic-Images/archive/refs/heads/main.zip"
"""Bird & Lotfi 2024, IEEE Access 12: "CIFAKE: Image Classification and Explainable Identification …"."""

Progress = Callable[[int, int | None], None]

_MARKER = ".fetched.json"
_BLOCK = 1 << 16
_TIMEOUT_S = 30.0


def fetch_cifake(
    dest: Path, *, url: str = CIFAKE_URL, sha256: str | None = None, progress: Progress | None = None
) -> Path:
    """Download an archive of images and unpack it to ``dest``; a second call finds it there and does nothing.

    The download is kept beside ``dest`` as ``<dest>.zip.part`` until complete; the next call resumes it.

    Args:
        dest: the folder to make; it may be absent or empty.
        url: an ``http(s)`` address of a zip archive.
        sha256: the archive's digest in hexadecimal, where known; the checksums inside it are always verified.
        progress: called with the bytes received so far and the total, None while that is unknown.

    Returns:
        ``dest``.

    Raises:
        UsageError: an address that is not http(s).
        DataError: no connection, a server's refusal, a damaged archive, a ``dest`` that holds something else.
    """
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"cannot fetch '{url}'; the address must begin with https://")
    if _already_there(dest, url):
        return dest
    part = dest.with_name(dest.name + ".zip.part")
    try:
        dest.parent.mkdir(parents=True, exist_ok=True)
        _download(url, part, progress or (lambda _done, _total: None))
        _verify(part, url, sha256)
        _unpack_whole(part, dest, url)
    except OSError as error:
        raise DataError(f"cannot write '{dest}' ({error.strerror or error}); choose another folder") from error
    _discard(part)
    return dest


def _already_there(dest: Path, url: str) -> bool:
    if not dest.exists() or (dest.is_dir() and not any(dest.iterdir())):
        return False
    try:
        former = json.loads((dest / _MARKER).read_text("utf-8"))["url"]
    except (OSError, ValueError, KeyError, TypeError):
        former = "other files"
    if former != url:
        raise DataError(f"'{dest}' already holds {former}; choose another folder or delete it")
    return True


def _download(url: str, part: Path, progress: Progress) -> None:
    """Fill ``part``; after a broken connection, try again as long as every attempt brings new bytes."""
    before = _size(part)
    while True:
        try:
            if _attempt(url, part, progress):
                return
            problem = "the connection closed early"
        except urllib.error.HTTPError as error:
            error.close()
            raise DataError(f"cannot fetch '{url}': the server answered {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            problem = str(getattr(error, "reason", None) or error) or type(error).__name__
        if _size(part) <= before:
            raise DataError(
                f"cannot fetch '{url}': {problem} after {_size(part):,} bytes; check the connection and "
                f"run it again, it goes on from there"
            )
        before = _size(part)


def _attempt(url: str, part: Path, progress: Progress) -> bool:
    """Request the missing bytes once; return whether ``part`` is complete."""
    former = _read_note(part)
    if former is None:
        _discard(part)
    have = _size(part)
    try:
        response = urllib.request.urlopen(_request(url, have, former or {}), timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:  # 416: nothing lies beyond what we have
            raise
        whole = (error.headers.get("Content-Range") or "").rpartition("/")[2]
        error.close()
        if whole == str(have):
            return True
        _discard(part)
        return _attempt(url, part, progress)
    with response:
        start, total = _range_of(response)
        note = {"validator": _validator(response), "total": total}
        if start and (start != have or note != former):  # a piece of another file: If-Range was ignored
            _discard(part)
            return _attempt(url, part, progress)
        if not start:
            _discard(part)
        _note(part).write_text(json.dumps(note), "utf-8")
        with part.open("ab" if start else "wb") as file:
            progress(start, total)
            while block := response.read(_BLOCK):
                file.write(block)
                progress(file.tell(), total)
    return total is None or _size(part) == total


def _request(url: str, have: int, former: dict[str, Any]) -> urllib.request.Request:
    headers = {"User-Agent": "robustbench_df", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if former.get("validator"):
            headers["If-Range"] = former["validator"]
    return urllib.request.Request(url, headers=headers)


def _range_of(response: Any) -> tuple[int, int | None]:
    """Return the offset of the response's first byte and the whole file's length, None if unknown."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range") or "")
    if response.status == 206 and match:
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length")
    return 0, int(length) if length else None


def _validator(response: Any) -> str:
    """Return what identifies this version of the file; If-Range takes no weak ETags (RFC 9110, 13.1.5)."""
    etag = response.headers.get("ETag") or ""
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified") or ""


def _verify(part: Path, url: str, sha256: str | None) -> None:
    if sha256 is None:
        return
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        _discard(part)
        raise DataError(f"'{url}' has the SHA-256 {found}, not {sha256.lower()}; it was deleted, fetch it again")


def _unpack_whole(part: Path, dest: Path, url: str) -> None:
    scratch = Path(tempfile.mkdtemp(prefix=f".{dest.name}-", dir=dest.parent))
    try:
        whole = scratch / "whole"
        whole.mkdir()
        _unpack(part, whole, nested=True)
        (whole / _MARKER).write_text(json.dumps({"url": url}), "utf-8")
        if dest.exists():
            dest.rmdir()
        whole.replace(dest)
    except DataError as error:
        _discard(part)
        raise DataError(f"the download of '{url}' is unusable: {error}; it was deleted") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _unpack(archive: Path, folder: Path, *, nested: bool) -> None:
    """Write every entry below ``folder``, without a wrapping folder; archives inside become folders, one level deep."""
    opened = ZipStore.open(archive)
    with contextlib.closing(opened):
        unsafe = [finding.where for finding in opened.findings if finding.kind == "unsafe-path"]
        if unsafe:
            raise DataError(f"the entry '{unsafe[0]}' leads out of the archive")
        store: Store = unwrap(opened)
        if not nested and all(name.startswith(f"{folder.name}/") for name in store.names):
            store = store.within(folder.name)  # train.zip that holds train/
        for name in store.names:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                target.write_bytes(store.read(name))
            except Unreadable as problem:
                raise DataError(f"'{name}': {problem}") from problem
            if nested and target.suffix.lower() == ".zip":
                inner = target.with_suffix("")
                inner.mkdir(exist_ok=True)
                _unpack(target, inner, nested=False)
                target.unlink()


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _read_note(part: Path) -> dict[str, Any] | None:
    try:
        note = json.loads(_note(part).read_text("utf-8"))
        return {"validator": str(note["validator"]), "total": note["total"]}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)
