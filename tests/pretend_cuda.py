"""A pretended CUDA device, on which mistakes about devices fail as on a real one, on a machine without a GPU.

Within `pretend_cuda` a tensor on the GPU is an `OnGpu`: it says ``cuda:N`` and keeps its values on the CPU, where all
is computed. Operations on tensors of two devices, ``.numpy()``, and a random generator of the CPU raise, as on a GPU.

What it shows: a tensor, parameter or buffer made on or left on the wrong device, in forwards, backwards and optimizers;
mistakes on ways through the package that only CUDA takes.

What it cannot show: speed, memory and waiting; rounding and TF32; operations that CUDA lacks or cuDNN does differently;
what CUDA's own autocast casts, for it is the CPU's here; streams; a ``torch.load`` that forgets ``map_location``, for
what was saved comes back on the CPU. In a custom backward or a hook, making a tensor on ``cuda`` fails, though it is
right. A CPU tensor without dimensions is taken by every operation but those in `_SAME_DEVICE`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

CPU = torch.device("cpu")
NAME = "Pretended GPU"

_BY_INDEX = {"index", "index_put", "index_put_", "_index_put_impl_"}
"""Operations whose indices may lie on the CPU."""

_SAME_DEVICE = {"cat", "stack", "gather", "scatter", "scatter_", "index_select", "embedding"}
"""Operations that do not even take a CPU tensor without dimensions."""


class OnGpu(Tensor):
    """A tensor that is said to be on ``place`` (``cuda:N``); ``on_cpu`` holds its values."""

    on_cpu: Tensor
    place: torch.device

    # To torch below Python this is a CPU tensor of a strange class: what asks for the device is answered here.
    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: self.place)
    is_cuda = True

    @staticmethod
    def __new__(cls, values: Tensor, place: torch.device) -> OnGpu:
        """Wrap values of the CPU that have no gradient."""
        layout = {"strides": values.stride(), "storage_offset": values.storage_offset(), "dtype": values.dtype}
        tensor: OnGpu = Tensor._make_wrapper_subclass(cls, values.shape, **layout)
        tensor.on_cpu, tensor.place = values, place
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute on the CPU; raises RuntimeError where the devices differ."""
        kwargs = kwargs or {}
        place = _common_place(func, args, kwargs)
        values, options = _mapped((args, kwargs), lambda t: t.on_cpu if isinstance(t, OnGpu) else t)
        found = _mapped(func(*values, **options), lambda t: OnGpu(t, place))
        return return_and_correct_aliasing(func, args, kwargs, found)

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        return _to(self, *args, **kwargs)

    def cpu(self) -> Tensor:
        return _moved(self, CPU)

    def new_tensor(self, data: Any, dtype: torch.dtype | None = None) -> Tensor:
        return _moved(torch.tensor(data, dtype=dtype or self.dtype), self.place)

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert {self.place} device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    def tolist(self) -> Any:
        return self.on_cpu.tolist()

    def __repr__(self, **_: Any) -> str:
        return f"{self.on_cpu!r} on {self.place}"

    def __format__(self, how: str) -> str:
        return format(self.on_cpu, how)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.on_cpu.__reduce_ex__(protocol)


def _tensors(part: Any) -> Iterator[Tensor]:
    """All tensors among arguments."""
    if isinstance(part, Tensor):
        yield part
    elif isinstance(part, (list, tuple, dict)):
        for one in part.values() if isinstance(part, dict) else part:
            yield from _tensors(one)


def _mapped(part: Any, change: Callable[[Any], Tensor]) -> Any:
    """The same with every tensor changed."""
    if isinstance(part, Tensor):
        return change(part)
    if isinstance(part, dict):
        return {name: _mapped(one, change) for name, one in part.items()}
    if isinstance(part, (list, tuple)):
        ones = [_mapped(one, change) for one in part]
        return ones if isinstance(part, list) else tuple(ones)
    return part


def _common_place(func: Any, args: Any, kwargs: Any) -> torch.device:
    """Return the device of the GPU's tensors; raises RuntimeError where others do not go with them."""
    name, given = func._schema.name.removeprefix("aten::"), [*_tensors(args), *_tensors(kwargs)]
    places = {t.place for t in given if isinstance(t, OnGpu)}
    if name != "copy_":  # the one operation between two devices
        if name in _BY_INDEX and isinstance(args[0], OnGpu):
            given = [args[0], *_tensors(args[2:])]
        changed = args[0] if func._schema.is_mutable else None
        plain = [t for t in given if not isinstance(t, OnGpu)]
        wrong = any(t.ndim or name in _SAME_DEVICE or t is changed for t in plain)
        if len(places) > 1 or wrong:
            found = ", ".join(sorted([*map(str, places), *["cpu"] * wrong]))
            raise RuntimeError(f"Expected all tensors to be on the same device, but {name} found them on {found}")
    _refuse_generator(kwargs)
    return places.pop()


def _refuse_generator(kwargs: Any) -> None:
    if kwargs.get("generator") is not None:
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")


class _Move(torch.autograd.Function):
    """A copy on another device; its gradient goes back to where the tensor was."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, place: torch.device) -> Tensor:
        ctx.came_from = x.device
        values = (x.on_cpu if isinstance(x, OnGpu) else x.detach()).clone()
        return values if place == CPU else OnGpu(values, place)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _moved(gradient, ctx.came_from), None


def _moved(x: Tensor, place: torch.device) -> Tensor:
    return x if x.device == place else _Move.apply(x, place)


def _named(device: Any) -> torch.device:
    found = torch.device(device)
    return torch.device("cuda", found.index or 0) if found.type == "cuda" else found


def _to(x: Tensor, *how: Any, device: Any = None, **others: Any) -> Tensor:
    """``Tensor.to``, in all its forms."""
    if how and isinstance(how[0], Tensor):
        how = (how[0].device, how[0].dtype, *how[1:])
    if how and (how[0] is None or isinstance(how[0], (str, int, torch.device))):
        device, how = how[0], how[1:]
    dtypes = [part for part in how if isinstance(part, torch.dtype)]  # what else there is: non_blocking, copy
    changed = Tensor.to(x, *dtypes, **others)
    return changed if device is None else _moved(changed, _named(device))


class _Inside(TorchDispatchMode):
    """Within an operation of the GPU: what torch itself makes anew there, as `one_hot` does, is on the GPU."""

    def __init__(self, place: torch.device) -> None:
        super().__init__()
        self.place = place

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        anew = not any(True for _ in _tensors((args, kwargs)))
        return _mapped(found, lambda t: OnGpu(t, self.place)) if anew else found


class _Mode(TorchFunctionMode):
    """Lets Python make tensors on the pretended GPUs, and move others there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is Tensor.to:
            return _to(*args, **kwargs)
        if kwargs.get("device") is None or _named(kwargs["device"]).type not in ("cuda", "cpu"):
            place = next((t.place for t in _tensors((args, kwargs)) if isinstance(t, OnGpu)), None)
            if place is None or isinstance(func, FunctionType):  # what is written in Python names devices itself
                return func(*args, **kwargs)
            with _Inside(place):
                return func(*args, **kwargs)
        place = _named(kwargs.pop("device"))
        if place != CPU:
            _refuse_generator(kwargs)
        return _mapped(func(*args, **kwargs), lambda t: _moved(t, place))


@contextmanager
def pretend_cuda(devices: int = 1) -> Iterator[None]:
    """Let torch see so many GPUs, all of them pretended, until the context ends."""
    silent = ("synchronize", "empty_cache", "reset_peak_memory_stats", "set_rng_state")
    answers: dict[str, Any] = dict.fromkeys(silent) | dict.fromkeys(("memory_allocated", "max_memory_allocated"), 0)
    answers |= {"is_available": True, "device_count": devices, "get_device_name": NAME, "is_bf16_supported": True}
    real_autocast = torch.autocast.__init__

    def autocast(self: torch.autocast, device_type: str, *args: Any, **kwargs: Any) -> None:
        real_autocast(self, "cpu" if device_type == "cuda" else device_type, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, _Mode():
        for name, answer in answers.items():
            patch.setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
        patch.setattr(torch.cuda, "get_rng_state", lambda _: torch.get_rng_state())
        patch.setattr(torch.autocast, "__init__", autocast)
        # Asks CUDA's driver; the name differs between versions of torch.
        for name in ("_accelerator_graph_capture_health_check", "_cuda_graph_capture_health_check"):
            patch.setattr(torch.optim.Optimizer, name, lambda _: None, raising=False)
        # `Module.to` cannot set a parameter's values to those of another class of tensor; it can take its place.
        swapped = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            yield
        finally:
            torch.__future__.set_swap_module_params_on_conversion(swapped)
