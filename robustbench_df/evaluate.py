"""Run detectors on images and store the logits as `Predictions`. Images are streamed, so memory use stays constant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from robustbench_df.attacks.fgsm import fgsm
from robustbench_df.data.imageset import ImageSet
from robustbench_df.memory import is_out_of_memory, keep_freed_memory
from robustbench_df.models.detector import Detector, frozen
from robustbench_df.models.footprint import fitting_batch
from robustbench_df.records import Predictions

BATCH = 256
"""Images per forward pass in evaluation; fewer if they are large, halved when memory runs out. Results depend on it
only through float rounding."""

Transform = Callable[[Detector, Tensor, Tensor], Tensor]
"""``(detector, x, y) -> x``: the change that a condition makes to a batch before it is scored."""


@dataclass(frozen=True)
class Condition:
    """Condition under which images are scored: ``clean``, or FGSM at an L∞ budget in pixels of [0, 1]."""

    kind: str = "clean"
    eps: float = 0.0

    @property
    def name(self) -> str:
        """Stable name, used in files and tables."""
        return "clean" if self.kind == "clean" else f"{self.kind}-linf-{self.eps:g}"

    def transform(self) -> Transform | None:
        """Return the change made to a batch; None if there is none."""
        if self.kind == "clean":
            return None
        return lambda detector, x, y: fgsm(detector, x, y, self.eps)


CLEAN = Condition()


def _batch(images: ImageSet, index: NDArray[np.intp], device: torch.device) -> tuple[Tensor, Tensor]:
    """Read images as float ``[n, 3, H, W]`` in [0, 1], and labels int64 ``[n]``."""
    x = torch.from_numpy(images.pixels(index)).to(device).float().div_(255)
    x = x.contiguous(memory_format=torch.channels_last)  # the faster layout for convolutions in fp32
    return x, torch.from_numpy(images.labels[index].astype(np.int64)).to(device)


def predict_logits(
    detector: Detector,
    images: ImageSet,
    index: NDArray[np.intp],
    *,
    transform: Transform | None = None,
    views: Callable[[Tensor], list[Tensor]] | None = None,
    progress: Callable[[int], None] | None = None,
) -> NDArray[np.float32]:
    """Score images; returns float32 logits ``[n, 2]`` (real, fake), computed in fp32.

    Args:
        detector: put in eval mode for the call, restored afterwards.
        images, index: the images to score, in this order.
        transform: an attack or corruption applied to each batch first.
        views: test-time augmentation; the result is the log of the mean probability over the views.
        progress: called with the number of images of each finished batch.
    """
    device = detector.mean.device
    keep_freed_memory()
    out = np.empty((len(index), 2), dtype=np.float32)
    # An attack keeps the activations of every member for its gradient, so smaller batches limit memory. On a CPU they
    # also fit in the caches: EfficientNet-B0 is 1.4 times as fast with 64 images of 32 px as with 256.
    size = BATCH if transform is None and device.type != "cpu" else BATCH // 4
    done, size = 0, fitting_batch(size, detector, images.size, device, gradient=transform is not None)
    with frozen(detector):
        while done < len(index):
            part = index[done : done + size]
            try:
                out[done : done + len(part)] = _logits(detector, *_batch(images, part, device), transform, views)
            except RuntimeError as error:
                if not is_out_of_memory(error) or size == 1:
                    raise
                size //= 2
                continue
            done += len(part)
            if progress is not None:
                progress(len(part))
    return out


def _logits(
    detector: Detector,
    x: Tensor,
    y: Tensor,
    transform: Transform | None,
    views: Callable[[Tensor], list[Tensor]] | None,
) -> NDArray[np.float32]:
    if transform is not None:
        x = transform(detector, x, y)
    with torch.no_grad():
        if views is None:
            logits = detector(x).float()
        else:
            seen = torch.stack([detector(view).float().log_softmax(1) for view in views(x)])
            logits = seen.logsumexp(0) - float(np.log(len(seen)))
    scores: NDArray[np.float32] = logits.cpu().numpy()
    return scores


def predictions_table(
    images: ImageSet,
    index: NDArray[np.intp],
    logits: NDArray[np.float32],
    *,
    model: str,
    phase: str,
    condition: str,
    part: str,
    fold: int = -1,
) -> Predictions:
    """Put logits ``[n, 2]`` of ``images[index]`` into a `Predictions` table."""
    table = pd.DataFrame(
        {
            "model": model,
            "phase": phase,
            "condition": condition,
            "image_id": images.ids[index].astype(str),
            "label": images.labels[index],
            "part": part,
            "fold": np.int16(fold),
            "logit_real": logits[:, 0],
            "logit_fake": logits[:, 1],
        }
    )
    return Predictions(table, images.fingerprint)
