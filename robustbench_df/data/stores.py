"""Where files are read from: a folder here, a zip archive in `archive`, behind one small interface.

A store lists names and reads bytes. `layouts` interprets the names, `decode` the bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from robustbench_df.data.imageset import Finding

MAX_FILE_BYTES = 1 << 30
"""A file larger than this is no photograph; it is refused before it is read into memory."""

_JUNK = {"__macosx", "thumbs.db", "desktop.ini"}
_DIGITS = re.compile(r"([0-9]+)")


class Unreadable(Exception):  # noqa: N818  (it becomes a finding, not an error the user sees)
    """The bytes of one file cannot be read. ``kind`` names the finding; ``damaged`` blames the archive itself."""

    def __init__(self, kind: str, reason: str, *, damaged: bool = False) -> None:
        super().__init__(reason)
        self.kind = kind
        self.damaged = damaged


def natural_key(name: str) -> tuple[object, ...]:
    """Sort key that puts ``2.png`` before ``10.png``; numbers may have any length."""
    parts: list[object] = list(_DIGITS.split(name))
    for i in range(1, len(parts), 2):
        digits = str(parts[i]).lstrip("0")
        parts[i] = (len(digits), digits)
    return (*parts, name)


def natural_sort(names: Iterable[str]) -> list[str]:
    """Return the names in natural order."""
    return sorted(names, key=natural_key)


def is_junk(part: str) -> bool:
    """Tell by its name whether a file or folder is hidden or left behind by an operating system."""
    return part.startswith(".") or part.lower() in _JUNK


class Store(ABC):
    """A flat list of named files.

    Attributes:
        origin: what the user gave, for messages.
        names: every file but junk, with ``/`` between folders, in natural order.
        folders: every folder but junk, empty ones too.
        findings: what was wrong with the listing itself.
        stamp: changes when the container changes in a way its listing cannot show; empty for folders.
    """

    stamp = ""

    def __init__(
        self, origin: str, names: Sequence[str], folders: frozenset[str], findings: tuple[Finding, ...] = ()
    ) -> None:
        self.origin = origin
        self.names = names
        self.folders = folders
        self.findings = findings

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the bytes of one file, or raise `Unreadable`."""

    @abstractmethod
    def within(self, folder: str) -> Store:
        """Return the same store with ``folder`` as its root; names lose that prefix."""

    @abstractmethod
    def signature(self, names: Sequence[str]) -> str | None:
        """Digest that changes whenever a file may have changed, without reading files; None if `content` is cheap."""

    @abstractmethod
    def content(self, names: Sequence[str]) -> str:
        """Digest of the names and the contents of the files."""

    def newest_ns(self, names: Sequence[str]) -> int:  # noqa: ARG002
        """Latest change time of the files, in ns since the epoch; 0 where there is no `signature`."""
        return 0

    def close(self) -> None:  # noqa: B027
        """Close open files."""

    def _inside(self, folder: str) -> tuple[list[str], frozenset[str]]:
        prefix = folder + "/"
        names = [name.removeprefix(prefix) for name in self.names if name.startswith(prefix)]
        return names, frozenset(f.removeprefix(prefix) for f in self.folders if f.startswith(prefix))


class FolderStore(Store):
    """Files below ``root``. Names not listed can be read too, so a manifest may point anywhere on disk."""

    def __init__(
        self,
        root: Path,
        origin: str,
        names: Sequence[str],
        folders: frozenset[str] = frozenset(),
        findings: tuple[Finding, ...] = (),
    ) -> None:
        super().__init__(origin, names, folders, findings)
        self.root = root

    @classmethod
    def scan(cls, root: Path) -> FolderStore:
        """List a folder; links are followed unless they lead back to a folder above them."""
        names: list[str] = []
        folders: list[str] = []
        findings: list[Finding] = []
        for name, is_folder, problem in _walk(str(root), "", frozenset()):
            if problem:
                findings.append(Finding("unreadable-folder", name, problem))
            else:
                (folders if is_folder else names).append(name)
        return cls(root, str(root), natural_sort(names), frozenset(folders), tuple(findings))

    def read(self, name: str) -> bytes:
        """Return the bytes of one file, or raise `Unreadable`."""
        try:
            status = os.stat(self._path(name))  # noqa: PTH116  (a Path per file doubles the time)
            if not stat.S_ISREG(status.st_mode):
                raise Unreadable("unreadable", "not a regular file")
            refuse_giant(status.st_size)
            with open(self._path(name), "rb") as file:  # noqa: PTH123
                return file.read()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise Unreadable("missing-image", "no such file") from error
        except (OSError, ValueError) as error:  # ValueError: a null byte in a manifest's path
            raise Unreadable("unreadable", getattr(error, "strerror", None) or str(error)) from error

    def within(self, folder: str) -> FolderStore:
        """Return the same store with ``folder`` as its root."""
        return FolderStore(self.root / folder, self.origin, *self._inside(folder), self.findings)

    def signature(self, names: Sequence[str]) -> str:
        """Digest of the path, size, modification and change time of every file."""
        digest = hashlib.blake2b(os.fsencode(self.root.resolve()), digest_size=16)
        for name in names:
            status = self._stat(name)
            fields = (status.st_size, status.st_mtime_ns, status.st_ctime_ns) if status else ()
            digest.update(f"\0{name}\0{fields}".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def content(self, names: Sequence[str]) -> str:
        """Digest of the names and of every byte."""
        digest = hashlib.blake2b(digest_size=16)
        for name in names:
            digest.update(b"\0" + name.encode("utf-8", "surrogatepass") + b"\0")
            try:
                digest.update(hashlib.blake2b(self.read(name), digest_size=16).digest())
            except Unreadable as problem:
                digest.update(f"{problem.kind} {problem}".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def newest_ns(self, names: Sequence[str]) -> int:
        """Latest change time among the files, in ns since the epoch."""
        return max((status.st_ctime_ns for name in names if (status := self._stat(name))), default=0)

    def _path(self, name: str) -> str:
        return os.path.join(self.root, name)  # noqa: PTH118

    def _stat(self, name: str) -> os.stat_result | None:
        try:
            return os.stat(self._path(name))  # noqa: PTH116
        except (OSError, ValueError):
            return None  # it is read, and reported, later


def refuse_giant(n_bytes: int) -> None:
    """Raise `Unreadable` for a file of more than `MAX_FILE_BYTES`."""
    if n_bytes > MAX_FILE_BYTES:
        raise Unreadable("too-large", f"a file of {n_bytes:,} bytes, more than {MAX_FILE_BYTES:,}")


def _walk(root: str, below: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, bool, str]]:
    """Yield (name, is a folder, problem) for everything below a folder."""
    try:
        here = os.stat(root)  # noqa: PTH116
        with os.scandir(root) as listing:
            entries = list(listing)
    except OSError as error:
        yield below, True, error.strerror or str(error)
        return
    above |= {(here.st_dev, here.st_ino)}
    for entry in entries:
        name = f"{below}/{entry.name}" if below else entry.name
        if is_junk(entry.name):
            continue
        if not entry.is_dir():
            yield name, False, ""
            continue
        inner = entry.stat()
        if (inner.st_dev, inner.st_ino) not in above:
            yield name, True, ""
            yield from _walk(entry.path, name, above)
