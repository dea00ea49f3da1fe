"""What a CPU looks at together: fewer images where they are large or many networks keep them for a gradient."""

from __future__ import annotations

import torch
from torch import nn

from robustbench_df.metrics.calibration import Decision
from robustbench_df.models.deployed import Deployed
from robustbench_df.models.detector import Detector, Ensemble
from robustbench_df.models.footprint import fitting_batch, fitting_micro_batch

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def detector(input_size: int | None = None) -> Detector:
    return Detector(nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), input_size=input_size)


def test_small_images_are_looked_at_as_asked_and_large_ones_in_parts() -> None:
    assert fitting_batch(64, detector(), (32, 32), CPU, gradient=True) == 64
    assert fitting_batch(64, detector(), (224, 224), CPU, gradient=True) == 20
    assert fitting_batch(64, detector(), (4000, 3000), CPU, gradient=False) == 1
    assert fitting_batch(64, detector(), (4000, 3000), CUDA, gradient=True) == 64  # it says itself when memory is out
    assert fitting_batch(64, nn.Flatten(), (224, 224), CPU, gradient=True) == 20  # anything that is attacked


def test_a_gradient_goes_through_all_networks_and_a_forward_through_one_at_a_time() -> None:
    folds = [Ensemble([detector() for _ in range(5)]) for _ in range(5)]
    whole = Deployed(Ensemble(folds), Decision(1.0, 0.5, "cal"))
    assert fitting_batch(64, whole, (224, 224), CPU, gradient=False) == 20
    assert fitting_batch(64, whole, (224, 224), CPU, gradient=True) == 1
    assert fitting_batch(64, folds[0], (224, 224), CPU, gradient=True) == 4


def test_what_counts_is_the_size_that_the_network_sees() -> None:
    assert fitting_batch(64, detector(224), (32, 32), CPU, gradient=True) == 20
    assert fitting_batch(64, detector(224), (2000, 2000), CPU, gradient=True) == 20


def test_micro_batches_are_halved_but_not_below_what_batch_normalisation_needs() -> None:
    assert fitting_micro_batch(64, detector(), (128, 128), CPU) == 64
    assert fitting_micro_batch(64, detector(), (160, 160), CPU) == 32
    assert fitting_micro_batch(64, detector(), (224, 224), CPU) == 16
    assert fitting_micro_batch(8, detector(), (1000, 1000), CPU) == 8
    assert fitting_micro_batch(64, detector(), (1000, 1000), CUDA) == 64
    assert fitting_micro_batch(64, detector(), (32, 32), CPU, twins=True) == 64
    assert fitting_micro_batch(64, detector(), (224, 224), CPU, twins=True) == 8  # sixteen with their twins
