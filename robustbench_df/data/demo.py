"""The demo set: real and fake pictures made on demand from photographs that come with scikit-learn and scikit-image.

Real pictures are crops of the photographs, at full and at half resolution; fakes are other crops sent through a small
generator (`robustbench_df.data.generator`). The photographs are divided into tiles that do not overlap; every picture,
real or fake, is made from a single tile, which is its group. Each tile gives as many fakes as reals, so neither the
content nor the photograph separates the classes.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robustbench_df.data.generator import STRIDE, PatchGenerator
from robustbench_df.data.imageset import FAKE, REAL, ImageSet, Pixels, image_set_from_arrays
from robustbench_df.errors import DataError, UsageError

PHOTOGRAPHS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "chelsea": ("skimage", "data/chelsea.png"),
    "china": ("sklearn", "datasets/images/china.jpg"),
    "coffee": ("skimage", "data/coffee.png"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
    "hubble": ("skimage", "data/hubble_deep_field.jpg"),
    "ihc": ("skimage", "data/ihc.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
}
"""Name -> (package, path in it): the colour photographs inside the wheels, which need no download.

In natural order of the names. The right view of the motorcycle is left out, because it shows the same scene as the left
one.
"""

SIDES = (16, 64)
"""Smallest and largest image side; with larger sides, the photographs yield too few tiles to split."""
_MARGIN = 32
"""A tile is this much wider than a half-resolution crop, in photo pixels, to leave room for different crops."""
_CONTRAST = 5.0
"""Least standard deviation, in grey levels, of every block of a tile: plain sky looks the same real or generated."""
_MOST_TILES = 24
"""Most tiles taken from one photograph, so that no motif dominates."""
_MOST_PER_TILE = 1000
"""Most pictures made from one tile; about half of them are at half resolution, where 33² = 1089 distinct places
exist."""


@dataclass(frozen=True, eq=False)
class Tile:
    """A square region of one photograph: ``[top, top + side) × [left, left + side)``.

    ``pixels`` is uint8 ``[side, side, 3]``; ``name`` is the group of every picture made from it.
    """

    photo: str
    number: int
    top: int
    left: int
    pixels: Pixels

    @property
    def name(self) -> str:
        """For example ``astronaut-012``."""
        return f"{self.photo}-{self.number:03d}"


def demo_set(seed: int = 0, size: int = 32, count: int = 2400) -> ImageSet:
    """Make ``count`` pictures of ``size`` × ``size`` pixels, half of them fake; the same bytes for the same arguments.

    Args:
        seed: non-negative; another seed gives other crops and other fakes of the same photographs.
        size: image side in pixels, a multiple of 4 from 16 to 64.
        count: pictures in all, even.

    Returns:
        Pictures named ``real/<photo>-<tile>-<number>.png`` and ``fake/…``, grouped by tile, with the photograph as
        source, in natural order of their names.

    Raises:
        UsageError: an argument out of range.
        DataError: none of the photographs is installed.
    """
    _check(seed, size, count)
    rng = np.random.Generator(np.random.PCG64(seed))
    tiles = _choose(photo_tiles(size), rng)
    pairs = _pairs_per_tile(count // 2, len(tiles), rng)
    sampled = [_crops(tile, size, 2 * n, rng) for tile, n in zip(tiles, pairs, strict=True)]
    real, encoded = (np.concatenate([crops[k::2] for crops in sampled]) for k in range(2))
    fake = PatchGenerator.fit(real).generate(encoded, rng)
    owners = [(tile, k) for tile, n in zip(tiles, pairs, strict=True) for k in range(n)]
    names = [f"{tile.name}-{k:03d}.png" for tile, k in owners]
    return image_set_from_arrays(
        np.concatenate([fake, real]),
        [FAKE] * len(fake) + [REAL] * len(real),
        ids=[f"{kind}/{name}" for kind in ("fake", "real") for name in names],
        groups=[tile.name for tile, _ in owners] * 2,
        sources=[tile.photo for tile, _ in owners] * 2,
        origin="demo",
        layout="demo",
    )


def photo_tiles(size: int) -> list[Tile]:
    """Return all usable tiles for pictures of side ``size``: disjoint, with contrast everywhere, in natural order.

    Raises:
        DataError: none of the photographs is installed.
    """
    side = 2 * size + _MARGIN
    tiles: list[Tile] = []
    installed = {photo: path for photo in PHOTOGRAPHS if (path := _find(photo))}
    for photo, path in installed.items():
        pixels = _read(path)
        tops, lefts = (range(0, extent - side + 1, side) for extent in pixels.shape[:2])
        for number, (top, left) in enumerate((top, left) for top in tops for left in lefts):
            tile = Tile(photo, number, top, left, pixels[top : top + side, left : left + side])
            if _contrast(tile.pixels, size) >= _CONTRAST:
                tiles.append(tile)
    if not tiles:
        raise DataError(
            "the demo set found none of its photographs; reinstall scikit-image and scikit-learn, or give a source"
        )
    return tiles


def _check(seed: int, size: int, count: int) -> None:
    if seed < 0:
        raise UsageError(f"the demo set's seed is {seed}; use 0 or more")
    if not SIDES[0] <= size <= SIDES[1] or size % STRIDE:
        raise UsageError(f"the demo set's size is {size}; use a multiple of {STRIDE} from {SIDES[0]} to {SIDES[1]}")
    if count < 2 or count % 2:
        raise UsageError(f"the demo set's count is {count}; use an even number, as half of the pictures are fake")


def _find(photo: str) -> Path | None:
    """Locate a photograph without importing its package, which takes seconds; None where it is not installed."""
    package, inside = PHOTOGRAPHS[photo]
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations or []) if spec else []
    return next((path for folder in folders if (path := Path(folder) / inside).is_file()), None)


def _read(path: Path) -> Pixels:
    from PIL import Image

    with Image.open(path) as photo:
        return np.asarray(photo.convert("RGB"))


def _contrast(pixels: Pixels, size: int) -> float:
    """Least standard deviation of the grey values over the ``size`` × ``size`` blocks of a tile."""
    n = len(pixels) // size
    grey = pixels[: n * size, : n * size].mean(axis=2)
    return float(grey.reshape(n, size, n, size).std(axis=(1, 3)).min())


def _choose(tiles: list[Tile], rng: np.random.Generator) -> list[Tile]:
    """Keep at most `_MOST_TILES` random tiles of each photograph, in order."""
    chosen: list[Tile] = []
    for photo in PHOTOGRAPHS:
        own = [tile for tile in tiles if tile.photo == photo]
        chosen += [own[k] for k in np.sort(rng.permutation(len(own))[:_MOST_TILES])]
    return chosen


def _pairs_per_tile(pairs: int, tiles: int, rng: np.random.Generator) -> list[int]:
    """Divide ``pairs`` of a real and a fake evenly among the tiles; which tiles give one more is random."""
    most = tiles * _MOST_PER_TILE // 2
    if pairs > most:
        raise UsageError(f"the demo set's count is {2 * pairs}; at this size use {2 * most} or less")
    extra = rng.permutation(tiles) < pairs % tiles
    return [pairs // tiles + int(more) for more in extra]


def _crops(tile: Tile, size: int, n: int, rng: np.random.Generator) -> Pixels:
    """Cut ``n`` distinct crops, uint8 ``[n, 3, size, size]``, each at full or half resolution (2×2 means), shuffled."""
    halves = int(rng.binomial(n, 0.5))
    out = np.empty((n, size, size, 3), np.uint8)
    k = 0
    for factor, wanted in ((1, n - halves), (2, halves)):
        side = factor * size
        places = len(tile.pixels) - side + 1
        for place in rng.choice(places**2, wanted, replace=False):
            top, left = divmod(int(place), places)
            crop = tile.pixels[top : top + side, left : left + side]
            out[k] = np.rint(crop.reshape(size, factor, size, factor, 3).mean(axis=(1, 3)))
            k += 1
    return rng.permutation(out).transpose(0, 3, 1, 2)
