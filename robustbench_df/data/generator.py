"""A small generator of fake pictures, fitted on demand: the demo set's substitute for a deepfake model.

It has the parts that leave traces in the output of published generators, and it hides differences in mean and variance:

1. *Encoder.* The principal components of all 8×8×3 patches of the real crops (`PatchGenerator.fit`), applied at
   stride 4: a linear convolutional autoencoder.
2. *Latents.* A patch's `KEEP` strongest components are kept as the content of the picture. The others, the fine detail,
   are drawn anew from their learnt distribution, as in probabilistic PCA (Tipping & Bishop 1999, J. R. Stat. Soc. B
   61(3)), with the energy the encoder found in that patch.
3. *Decoder.* A transposed convolution of stride 4 whose kernels are the components. The 8×8 kernels overlap and end
   abruptly at their edges, which leaves the grid of Odena, Dumoulin & Olah 2016 ("Deconvolution and checkerboard
   artifacts", Distill).
4. *Matching.* Each picture's channel means, radial power spectrum and value range are set to those of the crop it was
   encoded from. Durall, Keuper & Keuper 2020 (CVPR, arXiv:2003.01826) train generators towards that spectrum.

The idea of making fakes by passing a real picture through a generator's up-sampling comes from AutoGAN (Zhang, Karaman
& Chang 2019, WIFS, arXiv:1907.06515). A share of the pictures (`REFINED`) keeps part of its true detail, so that even a
good detector meets cases that it cannot decide. The fakes do not represent any GAN or diffusion model: a score on them
says nothing about such models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustbench_df.data.imageset import Pixels

Floats = NDArray[np.float64]

PATCH, STRIDE = 8, 4
"""Kernel side and stride of the encoder and the decoder, in pixels; image sides are multiples of the stride."""
KEEP = 6
"""Components of a patch (of 192) that survive the encoder: on these photographs 92% of the variance."""
REFINED, REFINED_DETAIL = 0.2, (0.3, 0.9)
"""Share of well-made pictures, and the range of the share of true detail energy they keep."""

_DECIMALS = 9
"""Components are rounded to this many decimals, so that the summation order of a BLAS does not affect the pixels."""
_BATCH = 100
_TINY = 1e-9


def _patches(images: NDArray[Any]) -> Floats:
    """Cut ``[n, 3, H, W]`` into flattened patches ``[n, rows, columns, 192]``."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (PATCH, PATCH), axis=(2, 3))
    windows = windows[:, :, ::STRIDE, ::STRIDE].transpose(0, 2, 3, 1, 4, 5)
    return windows.reshape(*windows.shape[:3], -1).astype(np.float64)


def _transposed_convolution(patches: Floats) -> Floats:
    """Sum overlapping patches ``[n, rows, columns, 192]`` into pictures ``[n, 3, H, W]``; the inverse of `_patches`.

    The outermost `STRIDE` pixels are covered by fewer patches; the caller adds them as padding and cuts them off.
    """
    n, rows, columns, _ = patches.shape
    blocks = patches.reshape(n, rows, columns, 3, PATCH, PATCH).transpose(4, 5, 0, 3, 1, 2)
    height, width = (rows - 1) * STRIDE, (columns - 1) * STRIDE
    out = np.zeros((n, 3, height + PATCH, width + PATCH))
    for i in range(PATCH):
        for j in range(PATCH):
            out[:, :, i : i + height + 1 : STRIDE, j : j + width + 1 : STRIDE] += blocks[i, j]
    return out / (PATCH // STRIDE) ** 2


def match_spectrum(images: Floats, like: Floats) -> Floats:
    """Scale every ring of spatial frequencies of square ``images`` ``[n, 3, S, S]`` to the energy it has in ``like``.

    Ring 0 is the mean, so channel means and variances are matched too; phases and directions are not.
    """
    side = images.shape[-1]
    fy, fx = np.fft.fftfreq(side) * side, np.fft.rfftfreq(side) * side
    ring = np.rint(np.hypot(fy[:, None], fx)).astype(np.intp)
    members = np.eye(ring.max() + 1)[ring.ravel()]
    members[np.tile((fx > 0) & (fx < side / 2), side)] *= 2  # rfft2 keeps one of each conjugate pair
    spectrum = np.fft.rfft2(images)

    def energy(transform: NDArray[np.complex128]) -> Floats:
        power: Floats = (np.abs(transform) ** 2).reshape(*transform.shape[:2], -1) @ members
        return power

    gain = np.sqrt(energy(np.fft.rfft2(like)) / np.maximum(energy(spectrum), _TINY))
    return np.fft.irfft2(spectrum * gain[:, :, ring], s=(side, side))


@dataclass(frozen=True, eq=False)
class PatchGenerator:
    """Principal components of image patches as encoder and decoder.

    Attributes:
        mean: mean patch, ``[192]``, in grey levels (0 to 255).
        components: orthonormal, strongest first, ``[192, 192]``.
        spread: standard deviation along each component, ``[192]``, in grey levels.
    """

    mean: Floats
    components: Floats
    spread: Floats

    @classmethod
    def fit(cls, crops: Pixels) -> PatchGenerator:
        """Learn the components from real crops, uint8 ``[n, 3, S, S]`` with S a multiple of `STRIDE`."""
        total, products, n = np.zeros(3 * PATCH**2), np.zeros((3 * PATCH**2, 3 * PATCH**2)), 0
        for start in range(0, len(crops), _BATCH):
            # Sums of products of integers: exact in float64, in whatever order a BLAS adds them.
            patches = _patches(crops[start : start + _BATCH]).reshape(-1, 3 * PATCH**2)
            total += patches.sum(axis=0)
            products += patches.T @ patches
            n += len(patches)
        mean = total / n
        variances, vectors = np.linalg.eigh(products / n - np.outer(mean, mean))
        components = vectors.T[::-1]
        largest = np.take_along_axis(components, np.abs(components).argmax(axis=1)[:, None], axis=1)
        components = np.round(components * np.sign(largest), _DECIMALS)
        spread = np.round(np.sqrt(np.maximum(variances[::-1], 0)), _DECIMALS)
        return cls(mean, components, spread)

    def generate(self, crops: Pixels, rng: np.random.Generator) -> Pixels:
        """Return one fake for each crop, uint8 ``[n, 3, S, S]``: the crop's content with the generator's detail."""
        parts = [self._generate(crops[k : k + _BATCH], rng) for k in range(0, len(crops), _BATCH)]
        return np.concatenate(parts)

    def _generate(self, crops: Pixels, rng: np.random.Generator) -> Pixels:
        like = crops.astype(np.float64)
        edge = (STRIDE, STRIDE)
        padded = np.pad(like, ((0, 0), (0, 0), edge, edge), mode="reflect")
        codes = (_patches(padded) - self.mean) @ self.components.T
        codes[..., KEEP:] = self._redraw(codes[..., KEEP:], rng)
        out = _transposed_convolution(codes @ self.components + self.mean)
        out = match_spectrum(out[:, :, STRIDE:-STRIDE, STRIDE:-STRIDE], like)
        out = np.clip(out, like.min(axis=(2, 3), keepdims=True), like.max(axis=(2, 3), keepdims=True))
        return np.asarray(np.rint(out), dtype=np.uint8)

    def _redraw(self, detail: Floats, rng: np.random.Generator) -> Floats:
        """Draw the weak components ``[n, rows, columns, 192 - KEEP]`` anew, with each patch's own energy."""
        fresh = rng.standard_normal(detail.shape) * self.spread[KEEP:]
        found = np.linalg.norm(detail, axis=-1, keepdims=True)
        fresh *= found / np.maximum(np.linalg.norm(fresh, axis=-1, keepdims=True), _TINY)
        refined = rng.random(len(detail)) < REFINED
        own = np.where(refined, rng.uniform(*REFINED_DETAIL, len(detail)), 0.0)[:, None, None, None]
        mixed: Floats = np.sqrt(own) * detail + np.sqrt(1 - own) * fresh
        return mixed
