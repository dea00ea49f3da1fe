"""`Detector`: pixels in [0, 1] go in, two logits come out. Everything else stays inside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustbench_df.precision import exact_fp32

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Channel statistics of ImageNet, as in torchvision and timm."""


class Detector(nn.Module):
    """A two-class network over raw pixels: ``forward(x: float[N, 3, H, W] in [0, 1]) -> logits[N, 2]`` (real, fake).

    Resizing and normalisation happen inside, so an attack's epsilon is always in pixels of [0, 1].

    Args:
        net: maps normalised images to ``[N, 2]``.
        mean, std: channel statistics of the normalisation.
        input_size: side to which images are resized (bilinear, antialiased); None: no resizing.
        residuals: computes additional input channels for ``net`` from the pixels; None: no additional channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        input_size: int | None = None,
        residuals: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.residuals = residuals
        self.input_size = input_size
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(1, 3, 1, 1))

    @property
    def resizes(self) -> bool:
        """Whether the detector resizes images of any size itself; otherwise they must already have the right size."""
        return self.input_size is not None

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, 2]`` for images ``[N, 3, H, W]`` in [0, 1]."""
        side = self.input_size
        if side is not None and tuple(x.shape[2:]) != (side, side):
            x = F.interpolate(x, (side, side), mode="bilinear", antialias=True, align_corners=False)
        inputs = (x - self.mean) / self.std
        if self.residuals is not None:
            inputs = torch.cat([inputs, self.residuals(x)], dim=1)
        logits: Tensor = self.net(inputs)
        return logits


class Ensemble(Detector):
    """Weighted mean of the members' probabilities, returned as log-probabilities ``[N, 2]``.

    It is differentiable, so every attack targets the ensemble exactly as deployed. With ``coefficients`` the
    combination is instead a logistic regression on the members' margins (stacking, Wolpert 1992).

    Args:
        members: detectors, any mixture of architectures and ensembles.
        weights: one non-negative number per member; normalised to sum to one. None: equal weights.
        coefficients, intercept: parameters of the stacked combination; ``weights`` is then ignored.
    """

    member_weights: Tensor

    def __init__(
        self,
        members: Sequence[Detector],
        weights: Sequence[float] | None = None,
        *,
        coefficients: Sequence[float] | None = None,
        intercept: float = 0.0,
    ) -> None:
        super().__init__(nn.Identity())
        self.members = nn.ModuleList(members)
        self.stacked = coefficients is not None
        self.intercept = intercept
        values = coefficients if coefficients is not None else weights
        raw = torch.ones(len(members)) if values is None else torch.tensor(list(values), dtype=torch.float32)
        if len(raw) != len(members):
            raise ValueError(f"{len(raw)} weights for {len(members)} members")
        if not self.stacked:
            if bool((raw < 0).any()) or float(raw.sum()) <= 0:
                raise ValueError(f"ensemble weights must be non-negative with a positive sum, not {raw.tolist()}")
            raw = raw / raw.sum()
        # Members of weight 0 are not evaluated: log(0) would make gradients NaN, and their forward passes cost time.
        self.used = [k for k, weight in enumerate(raw.tolist()) if weight] or list(range(len(members)))
        self.register_buffer("member_weights", raw)
        self.to(members[0].mean.device)  # own buffers go to the members' device

    @property
    def resizes(self) -> bool:
        """Whether every member in use resizes its images."""
        return all(self.members[k].resizes for k in self.used)

    def forward(self, x: Tensor) -> Tensor:
        """Return log-probabilities ``[N, 2]`` of the combination for images ``[N, 3, H, W]`` in [0, 1]."""
        return self.combine(torch.stack([self.members[k](x).float() for k in self.used]))

    def combine(self, logits: Tensor) -> Tensor:
        """Return log-probabilities ``[N, 2]`` from the logits ``[U, N, 2]`` of the `used` members."""
        weights = self.member_weights[self.used]
        if self.stacked:
            margin = (weights[:, None] * margins(logits)).sum(0) + self.intercept
            return torch.stack([F.logsigmoid(-margin), F.logsigmoid(margin)], dim=1)
        return torch.logsumexp(F.log_softmax(logits, dim=-1) + weights.log()[:, None, None], dim=0)


def margins(logits: Tensor) -> Tensor:
    """Return ``logit_fake - logit_real`` ``[...]`` of logits ``[..., 2]``."""
    return logits[..., 1] - logits[..., 0]


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Put ``module`` in eval mode with parameters that need no gradient; restore every mode and flag afterwards.

    Meanwhile fp32 convolutions are computed without TF32 (`exact_fp32`), so that results do not depend on the GPU.
    """
    modes = [(m, m.training) for m in module.modules()]
    flags = [(p, p.requires_grad) for p in module.parameters()]
    try:
        module.eval()
        module.requires_grad_(False)
        with exact_fp32():
            yield
    finally:
        for m, mode in modes:
            m.training = mode
        for p, flag in flags:
            p.requires_grad_(flag)
