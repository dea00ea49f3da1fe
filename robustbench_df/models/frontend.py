"""High-pass residuals as extra input channels: traces of resizers and generators lie in differences between pixels.

With few training images a network learns those differences late, after content and colour. Steganalysis supplies them
directly: linear high-pass filters (the first- and second-order kernels of the spatial rich model, Fridrich & Kodovsky
2012, doi:10.1109/TIFS.2012.2190402) on luma and chroma, and a truncation to small values (Ye, Ni & Yi 2017,
doi:10.1109/TIFS.2017.2710946). Here the truncation is a tanh instead of a hard clamp, so that attacks get gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 4.0
"""Scale of the tanh in grey levels: differences of a few levels stay nearly linear, edges saturate."""

YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""RGB to luma and chroma, ITU-R BT.601 full range."""

_KERNELS = (
    ((0, 0, 0), (0, -1, 1), (0, 0, 0)),
    ((0, 0, 0), (0, -1, 0), (0, 1, 0)),
    ((0, 0, 0), (1, -2, 1), (0, 0, 0)),
    ((0, 1, 0), (0, -2, 0), (0, 1, 0)),
    ((-1, 2, -1), (2, -4, 2), (-1, 2, -1)),
)
"""SRM's first-order, second-order and 3×3 square kernels."""

CHANNELS = len(YCC) * len(_KERNELS)


class Residuals(nn.Module):
    """Map images ``[N, 3, H, W]`` in [0, 1] to `CHANNELS` truncated residuals in (-1, 1), same height and width."""

    kernels: Tensor

    def __init__(self) -> None:
        super().__init__()
        colours, filters = torch.tensor(YCC), torch.tensor(_KERNELS, dtype=torch.float32)
        combined = torch.einsum("ci,khw->ckihw", colours, filters).reshape(CHANNELS, 3, 3, 3)
        self.register_buffer("kernels", combined * (255 / LEVELS), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 residuals ``[N, 15, H, W]``."""
        # bf16 resolves a pixel near 1 only to about one grey level, which is the size of the residuals themselves.
        with torch.autocast(x.device.type, enabled=False):
            return torch.tanh(F.conv2d(F.pad(x.float(), (1, 1, 1, 1), mode="reflect"), self.kernels))
