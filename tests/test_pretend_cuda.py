"""The pretended GPU refuses what a real one refuses, computes what the CPU computes, and leaves no trace."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.pretend_cuda import pretend_cuda


class Standardised(nn.Module):
    """A network with a buffer."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.full((3, 1, 1), 0.5))
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        logits: Tensor = self.net(x - self.mean)
        return logits


MISTAKES: dict[str, Callable[[Tensor, Tensor], object]] = {
    "an operation": lambda gpu, cpu: gpu + cpu,
    "another order": lambda gpu, cpu: cpu * gpu,
    "an argument by name": lambda gpu, cpu: torch.clamp(gpu, min=cpu),
    "a list": lambda gpu, cpu: torch.cat([gpu, cpu]),
    "a CPU number among GPU numbers": lambda gpu, cpu: torch.stack([gpu.sum(), cpu.sum()]),
    "a change in place": lambda gpu, cpu: gpu.add_(cpu),
    "a CPU sum of GPU numbers": lambda gpu, cpu: cpu.sum().add_(gpu.sum()),
    "a GPU index into a CPU tensor": lambda gpu, cpu: cpu[gpu.argsort()],
    "CPU values set by index": lambda gpu, cpu: gpu.__setitem__(gpu.argsort(), cpu),
    "a CPU matrix": lambda gpu, cpu: F.linear(gpu, cpu[None]),
    "two GPUs": lambda gpu, cpu: gpu + cpu.to("cuda:1"),
    "a gradient": lambda gpu, cpu: torch.autograd.grad(gpu.requires_grad_().sin().sum(), gpu)[0] + cpu,
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_what_mixes_devices_raises(mistake: Callable[[Tensor, Tensor], object]) -> None:
    with pretend_cuda(2), pytest.raises(RuntimeError, match="same device"):
        mistake(torch.rand(3).to("cuda"), torch.rand(3))


def test_a_generator_of_the_cpu_raises() -> None:
    generator = torch.Generator()
    with pretend_cuda():
        x = torch.zeros(3, device="cuda")
        for draw in (lambda: torch.rand(3, device="cuda", generator=generator), lambda: x.normal_(generator=generator)):
            with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator"):
                draw()


def test_numpy_of_the_gpu_raises() -> None:
    with pretend_cuda():
        x = torch.rand(3, device="cuda")
        for asked in (x.numpy, lambda: np.asarray(x), x.detach().numpy):
            with pytest.raises(TypeError, match="can't convert cuda:0"):
                asked()
        assert x.cpu().numpy().tolist() == x.tolist()


def test_a_module_whose_buffer_stayed_on_the_cpu_raises() -> None:
    with pretend_cuda():
        x, module = torch.rand(2, 3, 8, 8, device="cuda"), Standardised()
        with pytest.raises(RuntimeError, match="same device"):
            module(x)
        module.to("cuda")
        assert module(x).device == torch.device("cuda:0")
        module.mean = module.mean.cpu()
        with pytest.raises(RuntimeError, match="sub found them on cpu, cuda:0"):
            module(x)
        module.to("cuda").net[1].running_var = torch.ones(4)
        with pytest.raises(RuntimeError, match="same device"):
            module(x)


def test_what_a_gpu_takes_is_no_mistake() -> None:
    with pretend_cuda():
        x = torch.arange(6.0, device="cuda")
        assert (x + torch.tensor(1.0)).tolist() == [1, 2, 3, 4, 5, 6]
        assert x[torch.tensor([0, 2])].tolist() == x[[0, 2]].tolist() == [0, 2]
        assert x[torch.arange(6) > 3].tolist() == [4, 5]
        x[torch.tensor([1])] = 7
        x[2:4] = torch.zeros(2)
        kept = torch.zeros(6)
        kept[:] = x
        assert kept.numpy().tolist() == [0, 7, 0, 0, 4, 5]
        assert kept.to(x).device == x.new_zeros(2).device == torch.zeros_like(x).device == torch.device("cuda", 0)
        assert float(x.sum()) == x.max().item() + 9 == 16


def steps(device: str) -> tuple[list[float], dict[str, Tensor]]:
    """Train in half precision, stopped in between, and return the losses and the weights."""
    torch.manual_seed(0)
    module, losses = Standardised().to(device).to(memory_format=torch.channels_last), list[float]()
    kept = io.BytesIO()
    x, y = torch.rand(8, 3, 8, 8).to(device), (torch.arange(8) % 2).to(device)
    for _ in range(2):
        optimizer = torch.optim.AdamW(module.parameters(), 1e-2, fused=True)
        scaler = torch.amp.GradScaler(device, init_scale=64.0)
        if losses:
            kept.seek(0)
            for part, state in zip((module, optimizer, scaler), torch.load(kept, map_location="cpu"), strict=True):
                part.load_state_dict(state)
        for _ in range(2):
            with torch.autocast(device, torch.float16):
                loss = F.cross_entropy(module(x).float(), y)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            losses.append(float(loss.detach()))
        kept = io.BytesIO()
        torch.save([part.state_dict() for part in (module, optimizer, scaler)], kept)
        module = copy.deepcopy(module)
    assert all(p.device.type == p.grad.device.type == device for p in module.parameters() if p.grad is not None)
    return losses, {name: tensor.cpu() for name, tensor in module.state_dict().items()}


def test_it_trains_in_half_precision_as_the_cpu_does() -> None:
    cpu = steps("cpu")
    with pretend_cuda():
        gpu = steps("cuda")
    assert gpu[0] == cpu[0]
    assert all(torch.equal(gpu[1][name], cpu[1][name]) for name in cpu[1])


def test_nothing_is_left_of_it() -> None:
    before = torch.cuda.is_available(), torch.cuda.device_count(), torch.autocast.__init__
    with pretend_cuda(3):
        assert torch.cuda.is_available()
        assert torch.cuda.device_count() == 3
    assert (torch.cuda.is_available(), torch.cuda.device_count(), torch.autocast.__init__) == before
    assert not torch.__future__.get_swap_module_params_on_conversion()
    module = Standardised()
    weight = module.net[0].weight
    assert module.to(torch.float64).net[0].weight is weight
    assert type(weight) is nn.Parameter
