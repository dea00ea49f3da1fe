"""Class activation maps through the grad-cam library (Gildenblat et al., pytorch-grad-cam), batched.

Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391) weights the channels of a feature map by the gradient of a score.
The score here is the logit margin towards one class, chosen per image.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from robustbench_df import rng
from robustbench_df.errors import UsageError, nearest
from robustbench_df.memory import halving
from robustbench_df.models.detector import Detector, Ensemble, frozen
from robustbench_df.models.footprint import fitting_batch
from robustbench_df.models.layers import FeatureMap, feature_map

Maps = NDArray[np.float32]
M = TypeVar("M", bound=nn.Module)
Judge = Callable[[Tensor], Tensor]
"""A function from logits ``[N, 2]`` to verdicts int64 ``[N]``, 1 = fake."""

CAMS = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "xgradcam": "XGradCAM",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "elementwise": "GradCAMElementWise",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
}
"""Our name -> the library's class; only methods that need a single pass and no random numbers."""


@dataclass(frozen=True)
class MarginTarget:
    """The score that a map explains: ``sign · (logit_fake − logit_real)`` of one image's logits ``[2]``."""

    sign: float

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the margin, a scalar."""
        return self.sign * (logits[1] - logits[0])


@dataclass(frozen=True)
class VerdictTarget:
    """The score that a map explains: the margin towards the detector's own verdict."""

    judge: Judge

    def __call__(self, logits: Tensor) -> Tensor:
        """Return the margin, a scalar, of one image's logits ``[2]``."""
        return MarginTarget(1.0 if self.judge(logits.detach()[None])[0] else -1.0)(logits)


@dataclass(frozen=True, eq=False)
class Seen:
    """A detector's logits ``[N, 2]`` and verdicts ``[N]`` on a batch, and the maps of these verdicts."""

    logits: Tensor
    verdict: Tensor
    maps: Maps


def check_cam(name: str) -> None:
    """Refuse a name that is not in `CAMS`.

    Raises:
        UsageError: the message lists the choices and the nearest one.
    """
    if name not in CAMS:
        raise UsageError(f"unknown cam '{name}'{nearest(name, CAMS)}; choose from {', '.join(CAMS)}")


def cam_maps(detector: Detector, x: Tensor, target: Tensor, cam: str = "gradcam") -> Maps:
    """Return maps float32 ``[N, H, W]`` of the images' size, each scaled to [0, 1]; a blank map is 0 everywhere.

    The map of an `Ensemble` is the mean of its members' maps for the same class, weighted by the members'
    contributions to the ensemble's verdict (`voices`) and scaled to [0, 1].

    Args:
        detector: its modes, flags and gradients are restored afterwards.
        x: images ``[N, 3, H, W]`` in [0, 1].
        target: ``[N]``, the class that is explained, 1 = fake.
        cam: one of `CAMS`.

    Raises:
        UsageError: ``cam`` is unknown.
        ModelError: a network has no usable feature map.
    """
    check_cam(cam)
    if isinstance(detector, Ensemble):
        return _mean(detector, x, _members_logits(detector, x, {}), target, cam, {})
    return _single(detector, x, [MarginTarget(1.0 if said else -1.0) for said in target.tolist()], cam)[1]


def verdict_maps(detector: Detector, x: Tensor, judge: Judge, cam: str, known: Mapping[nn.Module, Seen]) -> Seen:
    """Compute the maps of a detector's own verdicts, as `cam_maps` does, with a single forward.

    Args:
        judge: turns the detector's logits into verdicts.
        known: earlier results on the same batch, by network. An ensemble reuses those of its members, and computes new
            maps only for images on which the member's verdict differs from the ensemble's.
    """
    check_cam(cam)
    if not isinstance(detector, Ensemble):
        logits, maps = _single(detector, x, [VerdictTarget(judge)] * len(x), cam)
        return Seen(logits, judge(logits), maps)
    members = _members_logits(detector, x, known)
    whole = detector.combine(members)
    return Seen(whole, judge(whole), _mean(detector, x, members, judge(whole), cam, known))


@torch.no_grad()
def _members_logits(ensemble: Ensemble, x: Tensor, known: Mapping[nn.Module, Seen]) -> Tensor:
    with frozen(ensemble):
        return torch.stack([known[m].logits if m in known else m(x).float() for m in heard(ensemble)])


def _mean(
    ensemble: Ensemble, x: Tensor, logits: Tensor, target: Tensor, cam: str, known: Mapping[nn.Module, Seen]
) -> Maps:
    total = np.zeros((len(x), *x.shape[2:]), np.float32)
    for member, share in zip(heard(ensemble), voices(ensemble, logits, target), strict=True):
        if member in known:
            maps, other = known[member].maps.copy(), known[member].verdict != target
            if bool(other.any()):
                maps[other.cpu().numpy()] = cam_maps(member, x[other], target[other], cam)
        else:
            maps = cam_maps(member, x, target, cam)
        total += share[:, None, None] * maps
    return _to_one(total)


def heard(ensemble: Ensemble) -> list[Detector]:
    """Return the members with a non-zero weight."""
    return [cast(Detector, ensemble.members[k]) for k in ensemble.used]


def voices(ensemble: Ensemble, logits: Tensor, target: Tensor) -> NDArray[np.float32]:
    """Contribution of each `heard` member to the target, float32 ``[members, N]``, from logits ``[members, N, 2]``.

    It is the member's weight times its probability of the class; in a stacked ensemble, the positive part of the
    member's term of the margin.
    """
    weights = ensemble.member_weights[ensemble.used][:, None]
    if ensemble.stacked:
        sign = torch.where(target == 1, 1.0, -1.0)
        said = (weights * (logits[..., 1] - logits[..., 0]) * sign).clamp_min(0)
    else:
        said = weights * logits.softmax(-1)[:, torch.arange(len(target)), target]
    shares: NDArray[np.float32] = said.cpu().numpy()
    return shares


def blank(maps: Maps) -> NDArray[np.bool_]:
    """Which maps are zero everywhere, because nothing in the layer supports the class; bool ``[N]``."""
    lit: NDArray[np.bool_] = np.any(maps, axis=(1, 2))
    return ~lit


def layers_of(detector: Detector, image_size: tuple[int, int]) -> list[FeatureMap]:
    """Return the layers that a detector's map is computed from: one, or those of an ensemble's `heard` members.

    Raises:
        ModelError: a network has no usable feature map.
    """
    if not isinstance(detector, Ensemble):
        return [feature_map(detector, image_size)]
    return [layer for member in heard(detector) for layer in layers_of(member, image_size)]


def randomised(module: M, seed: int, draw: int = 0) -> M:
    """Return a copy with random weights that keep the mean and standard deviation of each trained tensor.

    All matrices and kernels are randomised at once, which is the last stage of the cascade of Adebayo et al. 2018
    (arXiv:1810.03292, section 4). Normalisation parameters and biases stay as trained: otherwise activations would grow
    or vanish from layer to layer, and the maps would be blank.
    """
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for name, values in twin.named_parameters():
            if values.ndim > 1 and values.numel() > 1:
                generator = torch.Generator().manual_seed(rng.seed_of(seed, "randomised", draw, name))
                noise = torch.randn(values.shape, generator=generator).to(values.device)
                values.copy_(noise * values.std() + values.mean())
    return twin


def _single(
    detector: Detector, x: Tensor, targets: Sequence[Callable[[Tensor], Tensor]], cam: str
) -> tuple[Tensor, Maps]:
    """Logits ``[N, 2]`` and maps of one network, computed in batches that fit into memory."""

    def maps(few: int) -> tuple[Tensor, Maps]:
        begins = range(0, len(x), few)
        parts = [_library(detector, x[k : k + few], targets[k : k + few], cam) for k in begins]
        return torch.cat([logits for logits, _ in parts]), np.concatenate([found for _, found in parts])

    return halving(fitting_batch(len(x), detector, tuple(x.shape[2:]), x.device, gradient=True), maps)


def _library(
    detector: Detector, x: Tensor, targets: Sequence[Callable[[Tensor], Tensor]], cam: str
) -> tuple[Tensor, Maps]:
    import pytorch_grad_cam

    layer = feature_map(detector, (x.shape[2], x.shape[3]))
    with _untouched(detector), _cut(layer.module), torch.enable_grad():
        maker = getattr(pytorch_grad_cam, CAMS[cam])(detector, [layer.module], reshape_transform=layer.reshape)
        try:
            with np.errstate(all="ignore"):  # maps that are not finite become blank below
                found = np.asarray(maker(x, targets=list(targets)), np.float32)
        finally:
            maker.activations_and_grads.release()
        logits = maker.outputs.detach().float()
    found[~np.isfinite(found).all(axis=(1, 2))] = 0
    return logits, _to_one(found)


def _to_one(maps: Maps) -> Maps:
    """Scale every map to a maximum of 1; a blank map stays 0."""
    top = maps.max(axis=(1, 2), keepdims=True)
    scaled: Maps = np.divide(maps, top, out=np.zeros_like(maps), where=top > 0)
    return scaled


@contextmanager
def _untouched(detector: nn.Module) -> Iterator[None]:
    """Freeze the detector, and restore what the library changes: modes, flags, and ``.grad``."""
    gradients = [(p, p.grad) for p in detector.parameters()]
    with frozen(detector):
        try:
            yield
        finally:
            for p, gradient in gradients:
                p.grad = gradient


@contextmanager
def _cut(module: nn.Module) -> Iterator[None]:
    """Start the autograd graph at the output of ``module``, so that no gradient is computed before it or of a weight.

    Enter this before the library hooks the same layer, because the library's hook must see this hook's output.
    """

    def begin(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return output.detach().requires_grad_()

    hook = module.register_forward_hook(begin)
    try:
        yield
    finally:
        hook.remove()
