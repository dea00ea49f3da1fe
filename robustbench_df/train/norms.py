"""Batch normalisation of their own for adversarial images (AdvProp, Xie et al. 2020, arXiv:1911.09665, section 4).

Clean and attacked images have different statistics; mixed in one layer, they spoil each other's. So each batch
normalisation gets a twin that serves the attacked images while training. What is saved and deployed is the detector
with its own layers, of the same keys and shapes as without twins.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


class AuxiliaryNorms(nn.Module):
    """Twins of a detector's batch normalisations, set out from copies of them.

    Its parameters and buffers are those of the twins alone, in the order of the detector's modules.
    """

    def __init__(self, places: list[tuple[nn.Module, str, nn.Module]]) -> None:
        super().__init__()
        self._places = [(parent, name) for parent, name, _ in places]  # a tuple: they stay the detector's own
        self.twins = nn.ModuleList([copy.deepcopy(layer) for _, _, layer in places])

    @contextmanager
    def used(self) -> Iterator[None]:
        """Let the twins stand in for the layers, in the mode the layers are in."""
        layers = [getattr(parent, name) for parent, name in self._places]
        try:
            for (parent, name), layer, twin in zip(self._places, layers, self.twins, strict=True):
                setattr(parent, name, twin.train(layer.training))
            yield
        finally:
            for (parent, name), layer in zip(self._places, layers, strict=True):
                setattr(parent, name, layer)


def auxiliary_norms(detector: nn.Module) -> AuxiliaryNorms | None:
    """Return twins of the detector's batch normalisations; None where it has none, as ConvNeXt."""
    places: list[tuple[nn.Module, str, nn.Module]] = [
        (parent, name, layer)
        for parent in detector.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm)
    ]
    return AuxiliaryNorms(places) if places else None
