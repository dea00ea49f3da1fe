"""`ImageSet`: the form in which every other module receives images."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_df.errors import DataError

REAL, FAKE, UNLABELLED = 0, 1, -1
"""The label convention, everywhere: fake = 1, so that a score is P(fake)."""

SPLIT_NAMES = ("train", "val", "cal", "test")

Pixels = NDArray[np.uint8]
Strings = NDArray[np.object_]
Labels = NDArray[np.int8]

_PER_IMAGE = ("ids", "labels", "hashes", "sizes", "groups", "sources", "given", "predictions", "folder_labels")
"""The arrays of an `ImageSet` besides its pixels."""


@dataclass(frozen=True)
class Finding:
    """A problem in the input that does not stop a run and is always reported.

    ``kind`` is a short name (``unreadable``, ``missing-image``, ``missing-prediction`` …), ``where`` the path inside
    the source and ``detail`` the reason.
    """

    kind: str
    where: str
    detail: str


@dataclass(frozen=True, eq=False)
class ImageSet:
    """N images of one size, their labels, and where they come from. Frozen; every array has length N.

    Attributes:
        ids: unique names (path inside the source), in natural order: ``2.png`` before ``10.png``.
        labels: int8, 0 = real, 1 = fake, -1 = unlabelled; what is learnt and scored.
        data: uint8 ``[N, 3, H, W]``, RGB; a memory map when read from disk, so it may exceed the memory.
        hashes: uint64 digest of each image's decoded pixels; equal means pixel-identical.
        sizes: each image's size as displayed, before it is scaled to that of ``data``: "width×height" in pixels.
        groups: images with the same non-empty string must never be divided by a split (a photo tile, an identity).
        sources: free text, deeper folders or a manifest column; metrics are broken down by it.
        given: the part of the split that the source itself assigns: ``""`` or one of train, val, cal, test.
        predictions: a black-box detector's verdict on the image (0, 1; -1 where it gave none).
        folder_labels: the label the folder or manifest gives, kept also when ``labels`` are the predictions.
        fingerprint: digest of ids, labels and pixels; equal fingerprints mean equal data.
        origin, layout: what was read and how it was recognised.
        formats: image format by name -> count, as decoded.
        findings: what was wrong with the source.
    """

    ids: Strings
    labels: Labels
    data: Pixels
    hashes: NDArray[np.uint64]
    sizes: Strings
    groups: Strings
    sources: Strings
    given: Strings
    predictions: Labels
    folder_labels: Labels
    fingerprint: str
    origin: str = ""
    layout: str = ""
    formats: dict[str, int] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.ids)
        for name in ("data", *_PER_IMAGE):
            if len(getattr(self, name)) != n:
                raise DataError(f"ImageSet.{name} has {len(getattr(self, name))} entries for {n} ids")
        if self.data.ndim != 4 or self.data.shape[1] != 3 or self.data.dtype != np.uint8:
            raise DataError(f"ImageSet.data must be uint8 [N,3,H,W], not {self.data.dtype} {self.data.shape}")
        if len(set(self.ids)) != n:
            raise DataError("ImageSet.ids must be unique")

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.data.shape[2]), int(self.data.shape[3])

    def keys(self, index: Any = slice(None)) -> NDArray[np.int64]:
        """A stable 63-bit number per id: the key of the image's own random stream (`robustbench_df.rng`)."""
        return np.fromiter((stable_key(i) for i in self.ids[index]), dtype=np.int64)

    def pixels(self, index: Any) -> Pixels:
        """Return uint8 ``[n, 3, H, W]`` for an index array, slice, or sequence of ids (a copy, in RAM)."""
        if isinstance(index, Sequence | np.ndarray) and len(index) and isinstance(index[0], str):
            where = {name: k for k, name in enumerate(self.ids)}
            missing = [name for name in index if name not in where]
            if missing:
                raise DataError(f"no image '{missing[0]}' in {self.origin or 'this set'}")
            index = [where[name] for name in index]
        return np.ascontiguousarray(self.data[index])

    def labelled(self) -> NDArray[np.intp]:
        """Indices of the images that carry a label."""
        return np.flatnonzero(self.labels != UNLABELLED)

    @property
    def sides(self) -> NDArray[np.int64]:
        """The shorter side of each image before scaling, int64 ``[N]`` in pixels."""
        return np.array([min(map(int, size.split("×"))) for size in self.sizes], dtype=np.int64)

    def subset(self, index: NDArray[np.intp]) -> ImageSet:
        """Return the images at ``index`` as a set of its own (pixels are copied; findings are left out)."""
        arrays = {name: getattr(self, name)[index] for name in _PER_IMAGE}
        data = np.ascontiguousarray(self.data[index])
        print_ = fingerprint_of(arrays["ids"], arrays["labels"], arrays["hashes"])
        return replace(self, **arrays, data=data, fingerprint=print_, findings=())


def stable_key(text: str) -> int:
    """Hash a string to 63 bits, the same on every machine and in every process (BLAKE2b)."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little") >> 1


def pixel_hash(image: Pixels) -> int:
    """64-bit BLAKE2b of one decoded image, shape included."""
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(image).data)
    return int.from_bytes(digest.digest(), "little")


def fingerprint_of(ids: Strings, labels: Labels, hashes: NDArray[np.uint64]) -> str:
    """Digest of names, labels and pixel hashes as 16 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update("\0".join(ids).encode("utf-8", "surrogatepass"))
    digest.update(np.ascontiguousarray(labels).tobytes())
    digest.update(np.ascontiguousarray(hashes).tobytes())
    return digest.hexdigest()


def image_set_from_arrays(
    data: Pixels,
    labels: Sequence[int] | NDArray[Any],
    *,
    ids: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    sources: Sequence[str] | None = None,
    given: Sequence[str] | None = None,
    predictions: Sequence[int] | NDArray[Any] | None = None,
    **extra: Any,
) -> ImageSet:
    """Build an `ImageSet` from uint8 ``[N, 3, H, W]`` pixels and labels (0 real, 1 fake, -1 unknown) in memory.

    Missing ids become ``0.png``, ``1.png`` …; missing groups, sources and splits are empty.
    """
    n = len(data)

    def strings(values: Sequence[str] | None, default: Sequence[str]) -> Strings:
        return np.array(list(values if values is not None else default), dtype=object)

    id_array = strings(ids, [f"{i}.png" for i in range(n)])
    label_array = np.asarray(labels, dtype=np.int8)
    hashes = np.fromiter((pixel_hash(image) for image in data), dtype=np.uint64, count=n)
    empty = [""] * n
    return ImageSet(
        ids=id_array,
        labels=label_array,
        data=data,
        hashes=hashes,
        sizes=strings(None, ["×".join(map(str, data.shape[:1:-1]))] * n),
        groups=strings(groups, empty),
        sources=strings(sources, empty),
        given=strings(given, empty),
        predictions=np.full(n, UNLABELLED, np.int8) if predictions is None else np.asarray(predictions, np.int8),
        folder_labels=extra.pop("folder_labels", label_array),
        fingerprint=fingerprint_of(id_array, label_array, hashes),
        **extra,
    )
