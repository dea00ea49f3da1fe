"""The cache of decoded images: a memory-mapped uint8 array on disk, keyed by the contents of the files.

    <cache>/<key>/pixels.npy    uint8 [rows >= N, 3, H, W]; the first N rows are the images
    <cache>/<key>/hashes.npy    uint64 [N]
    <cache>/<key>/about.json    names, sizes before scaling, formats, findings
    <cache>/index/<signature>   the content digest last seen for the sizes and times of a folder's files

The key is a digest of names, contents and size, so other labels or layouts, or touching or moving files, never cause
decoding. An entry is built in its own folder and renamed into place, so it exists whole or not at all. If two processes
build it at once, the first one wins, and both use its entry.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from robustbench_df.data.imageset import Finding, Pixels, pixel_hash
from robustbench_df.data.stores import Store, Unreadable
from robustbench_df.errors import DataError

_VERSION = f"1 pillow-{PIL.__version__}"  # another decoder may give other pixels
_CHUNK = 64  # images per task: enough to hide the cost of handing it to a thread
_TICK_NS = 100_000_000  # coarsest time stamps of file systems; a later change within one could go unseen
_STALE_S = 24 * 3600  # an unfinished entry this old belongs to a process that died

Outcome = tuple[str, str] | Finding
"""Result for one image: its format and its size before scaling, or what is wrong with it."""


@dataclass(frozen=True)
class Decoded:
    """The readable images among the names asked for, in order; ``data`` is a read-only uint8 [N,3,H,W].

    ``sizes`` are the sizes as displayed, before scaling, "width×height".
    """

    names: list[str]
    sizes: list[str]
    data: Pixels
    hashes: NDArray[np.uint64]
    formats: dict[str, int]
    findings: tuple[Finding, ...]


def default_cache_dir() -> Path:
    """Return ``$RDF_CACHE``, or ``robustbench_df`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if own := os.environ.get("RDF_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "robustbench_df"


def decoded(
    store: Store, names: Sequence[str], *, size: int | None, cache_dir: Path | None, workers: int | None
) -> Decoded:
    """Return the pixels of ``names``, from the cache when their contents were decoded before.

    Args:
        store: where the files are.
        names: the images wanted.
        size: side to scale and crop to, in pixels; None requires images of one size.
        cache_dir: the cache's folder; `default_cache_dir` when None.
        workers: decoding threads; one per CPU when None.

    Raises:
        DataError: mixed sizes without ``size``, no readable image, a cache that cannot be written or is too small,
            files that change while they are read.
    """
    root = cache_dir or default_cache_dir()
    try:
        (root / "index").mkdir(parents=True, exist_ok=True)
        content = _content(store, names, root / "index")
        key = hashlib.blake2b(f"{_VERSION} {size} {content}".encode(), digest_size=16).hexdigest()
        # The result of a damaged archive is stored for that file's stamp only: a repaired archive may have the same
        # directory.
        homes = (root / key, root / f"{key}-{store.stamp}")
        for home in homes:
            if (entry := _open(home)) is not None:
                return entry
        _sweep(root)
        with _scratch(root) as scratch:
            damaged = _build(store, names, size, workers or os.cpu_count() or 1, scratch)
            if store.signature(names) is not None and _content(store, names, root / "index") != content:
                raise DataError(f"files in '{store.origin}' changed while they were read; run again")
            return _publish(scratch, homes[1] if damaged else homes[0])
    except OSError as error:
        raise DataError(
            f"cannot use the image cache '{root}' ({error.strerror or error}); set RDF_CACHE to a writable folder"
        ) from error


def _content(store: Store, names: Sequence[str], index: Path) -> str:
    """Return the store's content digest; files that look untouched since the last time are not read again."""
    start = time.time_ns()
    signature = store.signature(names)
    if signature is None:
        return store.content(names)
    note = index / signature
    with contextlib.suppress(FileNotFoundError):
        return note.read_text("ascii")
    content = store.content(names)
    # Files changed within the last tick could change again unseen, so nothing is noted and they are read again next
    # time.
    if store.newest_ns(names) < start - _TICK_NS and store.signature(names) == signature:
        draft = note.with_name(f"{signature}.{os.getpid()}")
        draft.write_text(content, "ascii")
        draft.replace(note)
    return content


def _open(home: Path) -> Decoded | None:
    """Return a finished entry, or None if it is absent or inconsistent."""
    try:
        about = json.loads((home / "about.json").read_text("ascii"))
        hashes = np.load(home / "hashes.npy")
        data = np.load(home / "pixels.npy", mmap_mode="r")[: len(hashes)]
        findings = tuple(Finding(*finding) for finding in about["findings"])
        if not len(about["names"]) == len(about["sizes"]) == len(hashes) == len(data):
            return None
        return Decoded(about["names"], about["sizes"], data, hashes, about["formats"], findings)
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _publish(scratch: Path, home: Path) -> Decoded:
    """Rename a finished entry into place, unless another process was first."""
    # Nothing is removed before the first attempt: another process may have put its entry there a moment ago.
    with contextlib.suppress(OSError):  # there is one already
        scratch.rename(home)
    if (entry := _open(home)) is None:
        shutil.rmtree(home, ignore_errors=True)
        with contextlib.suppress(OSError):
            scratch.rename(home)
        entry = _open(home)
    if entry is None:
        raise DataError(f"the image cache entry '{home}' cannot be written or read back; delete it and run again")
    return entry


def _build(store: Store, names: Sequence[str], size: int | None, workers: int, scratch: Path) -> bool:
    """Decode everything into ``scratch``; return whether the archive itself is damaged."""
    from robustbench_df.data.decode import decode, quiet_pillow

    damaged = False

    def read(name: str) -> tuple[Pixels, str, str] | Finding:
        nonlocal damaged
        try:
            return decode(store.read(name), size)
        except Unreadable as problem:
            damaged |= problem.damaged
            return Finding(problem.kind, name, str(problem))

    with quiet_pillow():
        shape = (3, size, size) if size else _first_shape(store, names, read)
        data = _allocate(scratch, len(names), shape, store.origin)
        hashes = np.zeros(len(names), np.uint64)

        def fill(rows: range) -> list[Outcome]:
            """Decode some rows into place; return each one's format and size, or what is wrong with it."""
            outcomes: list[Outcome] = []
            for row in rows:
                result = read(names[row])
                if isinstance(result, Finding):
                    outcomes.append(result)
                    continue
                image, form, seen = result
                _same_size(image, shape, names[row], store.origin)
                data[row], hashes[row] = image, pixel_hash(image)
                outcomes.append((form, seen))
            return outcomes

        outcomes = _in_threads(fill, len(names), workers)
    good = {row: outcome for row, outcome in enumerate(outcomes) if not isinstance(outcome, Finding)}
    for place, row in enumerate(good):  # close the gaps that unreadable images leave
        if place != row:
            data[place] = data[row]
    data.flush()
    np.save(scratch / "hashes.npy", hashes[list(good)])
    about = {
        "names": [names[row] for row in good],
        "sizes": [size for _, size in good.values()],
        "formats": dict(Counter(form for form, _ in good.values())),
        "findings": [astuple(outcome) for outcome in outcomes if isinstance(outcome, Finding)],
    }
    (scratch / "about.json").write_text(json.dumps(about), "ascii")
    return damaged


def _in_threads(fill: Callable[[range], list[Outcome]], n: int, workers: int) -> list[Outcome]:
    chunks = [range(start, min(start + _CHUNK, n)) for start in range(0, n, _CHUNK)]
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        return [outcome for outcomes in pool.map(fill, chunks) for outcome in outcomes]


def _first_shape(
    store: Store, names: Sequence[str], read: Callable[[str], tuple[Pixels, str, str] | Finding]
) -> tuple[int, int, int]:
    first = None
    for name in names:
        outcome = read(name)
        if isinstance(outcome, tuple):
            return outcome[0].shape[0], outcome[0].shape[1], outcome[0].shape[2]
        first = first or outcome
    reason = f"; first: '{first.where}': {first.detail}" if first else ""
    raise DataError(f"not one of the {len(names):,} images in '{store.origin}' can be read{reason}")


def _same_size(image: Pixels, shape: tuple[int, ...], name: str, origin: str) -> None:
    if image.shape != shape:
        one, other = (f"{s[2]}×{s[1]}" for s in (shape, image.shape))
        raise DataError(
            f"images in '{origin}' have different sizes, {one} and {other} ('{name}'); "
            f"give --size, for example --size {min(*shape[1:], *image.shape[1:])}"
        )


def _allocate(
    scratch: Path, n: int, shape: tuple[int, int, int], origin: str
) -> np.memmap[tuple[int, ...], np.dtype[np.uint8]]:
    need, free = n * int(np.prod(shape)), shutil.disk_usage(scratch).free
    if need > free:
        raise DataError(
            f"'{origin}' decodes to {need / 1e9:.1f} GB and the cache '{scratch.parents[1]}' has "
            f"{free / 1e9:.1f} GB free; give a smaller --size or set RDF_CACHE to a larger disk"
        )
    path = scratch / "pixels.npy"
    data = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(n, *shape))
    if hasattr(os, "posix_fallocate"):  # a disk that fills up is then an error here, not a SIGBUS while writing
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return data


@contextlib.contextmanager
def _scratch(root: Path) -> Iterator[Path]:
    scratch = Path(tempfile.mkdtemp(prefix="unfinished-", dir=root))
    try:
        entry = scratch / "entry"  # unlike its parent, it has the umask's permissions, for others who share the cache
        entry.mkdir()
        yield entry
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sweep(root: Path) -> None:
    for leftover in root.glob("unfinished-*"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > _STALE_S:
                shutil.rmtree(leftover)
