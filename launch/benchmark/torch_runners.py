"""Prepares the contestants in PyTorch, which is not a dependency of the project."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from densenet_jax.errors import InputError
from launch.benchmark.workload import (
    LEARNING_RATE,
    MOMENTUM,
    TORCHVISION_PEERS,
    WEIGHT_DECAY,
    Runner,
    Workload,
)

if TYPE_CHECKING:
    import torch

# Modes of torch.compile; "reduce-overhead" captures CUDA graphs.
COMPILE_MODES = {"torch-compiled": "default", "torch-graphs": "reduce-overhead"}
# The first step compiles, the second captures CUDA graphs, the third replays them.
_WARM_UP_STEPS_COMPILED = 3


def prepare(name: str, workload: Workload) -> Runner:
    """Returns the runner of the peer `name`; see the help of `launch.benchmark`.

    Raises InputError if a package is missing, or if PyTorch cannot use the workload's platform.
    """
    if importlib.util.find_spec("torch") is None:
        raise InputError("torch is not installed: pip install torch")
    import torch

    cuda = workload.platform == "gpu" and torch.cuda.is_available()
    if workload.platform != "cpu" and not cuda:
        raise InputError(
            f"JAX runs on {workload.platform}, but this PyTorch finds no CUDA device: install "
            "PyTorch for CUDA, or compare on CPU with JAX_PLATFORMS=cpu"
        )
    device = torch.device("cuda" if cuda else "cpu")
    # Time the algorithms for each convolution and keep the fastest, as XLA does.
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    size = workload.image_size
    shape = (workload.batch_size, workload.network.in_channels, size, size)
    images = torch.randn(shape, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, workload.network.num_classes, (workload.batch_size,), device=device)
    network = _network(name, workload).to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=LEARNING_RATE,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        nesterov=True,
        fused=cuda,  # One kernel for all parameters.
    )
    compiled = name in COMPILE_MODES
    model: Callable = torch.compile(network, mode=COMPILE_MODES[name]) if compiled else network

    def step(images, labels) -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=workload.dtype == "bfloat16"):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    def run(steps: int) -> None:
        for _ in range(steps):
            step(images, labels)
        if cuda:
            torch.cuda.synchronize()

    if not compiled:
        # The first step imports and keeps a constant amount, which the memory below must exclude.
        step(images[:1], labels[:1])
        optimizer.zero_grad()
    resident = _start_of_resident_peak()
    warm_up_steps = _WARM_UP_STEPS_COMPILED if compiled else 1
    warm_up = _seconds(run, warm_up_steps)
    if cuda:
        warm_up_peak = torch.cuda.max_memory_allocated()
        if name == "torch-graphs":
            torch.cuda.empty_cache()  # Keeps the memory of the graphs.
        torch.cuda.reset_peak_memory_stats()
    step_seconds = _seconds(run, 1)
    memory: int | None = None
    peak: int | None = None
    if cuda:
        memory, kind = torch.cuda.max_memory_allocated(), "peak allocated since warm-up"
        if name == "torch-graphs":
            # A replayed graph uses memory that PyTorch's allocator counts as free, but reserved.
            memory, kind = torch.cuda.max_memory_reserved(), "peak reserved since warm-up"
        peak = max(warm_up_peak, memory)
    else:
        # The memory of torch.compile itself would be most of the growth.
        if resident is not None and not compiled:
            memory = _resident("VmHWM") - resident
        kind = "growth of resident memory"
    # Warm-up takes longer than later steps only if it compiles or selects cuDNN's algorithms.
    longer = max(warm_up - warm_up_steps * step_seconds, 0.0)
    compile_seconds = longer if compiled or cuda else 0.0
    device_name = torch.cuda.get_device_name() if cuda else "cpu"
    return Runner(run, compile_seconds, memory, kind, device_name, peak)


def _network(name: str, workload: Workload) -> torch.nn.Module:
    if name in TORCHVISION_PEERS:
        if importlib.util.find_spec("torchvision") is None:
            raise InputError("torchvision is not installed: pip install torchvision")
        import torchvision

        return torchvision.models.get_model(
            workload.model,
            num_classes=workload.network.num_classes,
            memory_efficient=name == "torchvision-efficient",
        )
    from launch.benchmark.torch_densenet import TorchDenseNet

    return TorchDenseNet(workload.network, checkpointed=name == "torch-checkpointed")


def _seconds(run: Callable[[int], None], steps: int) -> float:
    started = time.perf_counter()
    run(steps)
    return time.perf_counter() - started


def _start_of_resident_peak() -> int | None:
    """Resets the peak of resident memory and returns the resident bytes.

    Returns None if the system does not record the peak.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _resident("VmRSS")
    except OSError:
        return None


def _resident(key: str) -> int:
    """Returns an entry of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
