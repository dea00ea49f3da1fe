"""A zip archive as a store: read in place, never unpacked."""

from __future__ import annotations

import hashlib
import lzma
import posixpath
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from robustbench_df.data.imageset import Finding
from robustbench_df.data.stores import Store, Unreadable, is_junk, natural_sort, refuse_giant
from robustbench_df.errors import DataError


class ZipStore(Store):
    """Entries of a zip archive, read in place. A name that leads out of the archive is a finding, not a file."""

    def __init__(
        self,
        archive: zipfile.ZipFile,
        origin: str,
        entries: dict[str, zipfile.ZipInfo],
        folders: frozenset[str],
        findings: tuple[Finding, ...],
        stamp: str,
    ) -> None:
        super().__init__(origin, list(entries), folders, findings)
        self._archive = archive
        self._entries = entries
        self.stamp = stamp

    @classmethod
    def open(cls, path: Path) -> ZipStore:
        """Open an archive; one that is damaged, incomplete or password-protected raises `DataError`."""
        try:
            archive = zipfile.ZipFile(path)
            status = path.stat()
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise DataError(
                f"cannot read the archive '{path}' ({error}): it is damaged or incomplete; fetch it again"
            ) from error
        entries, folders, findings = _list_entries(archive)
        if any(info.flag_bits & 0x1 for info in entries.values()):
            archive.close()
            raise DataError(f"the archive '{path}' is password-protected; unpack it and give the folder instead")
        ordered = {name: entries[name] for name in natural_sort(entries)}
        return cls(archive, str(path), ordered, folders, findings, f"{status.st_size:x}-{status.st_mtime_ns:x}")

    def read(self, name: str) -> bytes:
        """Return the bytes of one entry, its checksum verified, or raise `Unreadable`."""
        info = self._entries.get(name)
        if info is None:
            raise Unreadable("missing-image", "no such file in the archive")
        refuse_giant(info.file_size)
        try:
            with self._archive.open(info) as file:
                return file.read(info.file_size)  # bounded: an entry may hold far more than it declares
        except NotImplementedError as error:
            raise Unreadable("unreadable", f"{error}; pack the archive with deflate") from error
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError) as error:
            raise Unreadable("unreadable", f"damaged in the archive ({error})", damaged=True) from error

    def within(self, folder: str) -> ZipStore:
        """Return the same store with ``folder`` as its root."""
        names, folders = self._inside(folder)
        entries = {name: self._entries[f"{folder}/{name}"] for name in names}
        return ZipStore(self._archive, self.origin, entries, folders, self.findings, self.stamp)

    def signature(self, names: Sequence[str]) -> None:  # noqa: ARG002
        """Return None: the archive's directory holds a checksum of every entry, so `content` is cheap."""
        return

    def content(self, names: Sequence[str]) -> str:
        """Digest of the names, checksums and sizes in the archive's directory."""
        digest = hashlib.blake2b(digest_size=16)
        for name in names:
            info = self._entries.get(name)
            fields = (info.CRC, info.file_size) if info else ()
            digest.update(f"\0{name}\0{fields}".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def close(self) -> None:
        """Close the archive."""
        self._archive.close()


def safe_name(name: str) -> str | None:
    """Return an archive name in normal form, or None when it is absolute, names a drive or holds ``..``."""
    name = name.replace("\\", "/")  # archives packed on Windows
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in name.split("/") or "\0" in name:
        return None
    return posixpath.normpath(name)


def _list_entries(
    archive: zipfile.ZipFile,
) -> tuple[dict[str, zipfile.ZipInfo], frozenset[str], tuple[Finding, ...]]:
    entries: dict[str, zipfile.ZipInfo] = {}
    folders: set[str] = set()
    findings: list[Finding] = []
    for info in archive.infolist():
        name = safe_name(info.filename)
        if name is None:
            findings.append(Finding("unsafe-path", info.filename, "leads out of the archive; left out"))
        elif any(map(is_junk, name.split("/"))):
            continue
        elif info.is_dir() or info.filename.endswith("\\"):
            folders.add(name)
        else:
            if name in entries:
                findings.append(Finding("duplicate-entry", name, "stored twice in the archive; the last one counts"))
            entries[name] = info
    parents = {posixpath.dirname(name) for name in (*entries, *folders)}
    while parents := parents - {""}:
        folders |= parents
        parents = {posixpath.dirname(name) for name in parents}
    return entries, frozenset(folders), tuple(findings)
