"""A detector combined with its deployed decision rule, so that an attack targets the verdict that users see."""

from __future__ import annotations

from torch import Tensor

from robustbench_df.metrics.calibration import Decision
from robustbench_df.models.detector import Detector, margins
from robustbench_df.models.wrappers import two_logits


class Deployed(Detector):
    """Shift and scale a detector's margin so that the decision's threshold lies at zero.

    ``forward`` returns logits ``[N, 2]`` whose argmax is the calibrated verdict. Their margin is the detector's margin
    divided by the temperature, minus the log-odds of the threshold. The gradient of the margin changes only in scale.
    """

    def __init__(self, detector: Detector, decision: Decision) -> None:
        super().__init__(detector)
        self.temperature, self.offset = decision.temperature, decision.offset
        self.to(detector.mean.device)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``[N, 2]`` for images ``[N, 3, H, W]`` in [0, 1]."""
        return self.shifted(self.net(x).float())

    def shifted(self, logits: Tensor) -> Tensor:
        """Return the deployed logits ``[N, 2]`` for the detector's own logits ``[N, 2]``."""
        return two_logits(margins(logits) / self.temperature - self.offset)
