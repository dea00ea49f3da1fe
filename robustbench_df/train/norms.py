"""Separate batch normalisation for adversarial images (AdvProp, Xie et al. 2020, arXiv:1911.09665, section 4).

Clean and attacked images have different statistics, which distort each other when one layer serves both. So each batch
normalisation layer gets a twin that is used for the attacked images during training. The detector is saved and deployed
with its own layers; their keys and shapes are the same as without twins.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


class AuxiliaryNorms(nn.Module):
    """Twins of a detector's batch normalisation layers, initialised as copies of them.

    The parameters and buffers of this module are those of the twins alone, in the order of the detector's modules.
    """

    def __init__(self, places: list[tuple[nn.Module, str, nn.Module]]) -> None:
        super().__init__()
        self._places = [(parent, name) for parent, name, _ in places]  # tuples are not registered as submodules
        self.twins = nn.ModuleList([copy.deepcopy(layer) for _, _, layer in places])

    @contextmanager
    def used(self) -> Iterator[None]:
        """Replace the layers by their twins inside the context, in the same train or eval mode."""
        layers = [getattr(parent, name) for parent, name in self._places]
        try:
            for (parent, name), layer, twin in zip(self._places, layers, self.twins, strict=True):
                setattr(parent, name, twin.train(layer.training))
            yield
        finally:
            for (parent, name), layer in zip(self._places, layers, strict=True):
                setattr(parent, name, layer)


def auxiliary_norms(detector: nn.Module) -> AuxiliaryNorms | None:
    """Return twins of the detector's batch normalisation layers; None if it has none (ConvNeXt's native stem)."""
    places: list[tuple[nn.Module, str, nn.Module]] = [
        (parent, name, layer)
        for parent in detector.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm)
    ]
    return AuxiliaryNorms(places) if places else None
