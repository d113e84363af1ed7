"""The contestants in PyTorch, which is not a dependency of the project."""

import importlib.util
import time
from pathlib import Path

from densenet_jax.errors import InputError
from launch.benchmark.job import LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, Job, Runner

# How torch.compile is asked to compile: "reduce-overhead" captures CUDA graphs.
COMPILE_MODES = {"torch-compiled": "default", "torch-graphs": "reduce-overhead"}


def prepare(name: str, job: Job) -> Runner:
    """The runner of a peer called "torch..."; see the help of `launch.benchmark`."""
    if importlib.util.find_spec("torch") is None:
        raise InputError("torch is not installed: pip install 'densenet_jax[bench]'")
    import torch

    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    # As XLA does: time the ways to compute each convolution, keep the fastest.
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    size = job.image_size
    shape = (job.batch_size, job.network.in_channels, size, size)
    images = torch.randn(shape, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, job.network.num_classes, (job.batch_size,), device=device)
    model = _network(name, job).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=LEARNING_RATE,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        nesterov=True,
        fused=cuda,  # One kernel for all parameters.
    )
    compiled = name in COMPILE_MODES
    if compiled:
        model = torch.compile(model, mode=COMPILE_MODES[name])

    def step(images, labels) -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=job.dtype == "bfloat16"):
            loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()

    def run(steps: int) -> None:
        for _ in range(steps):
            step(images, labels)
        if cuda:
            torch.cuda.synchronize()

    if not compiled:
        # What a first step imports and keeps, whatever its size, is no part of the memory below.
        step(images[:1], labels[:1])
        optimizer.zero_grad()
    resident = _start_of_resident_peak()
    first = _seconds(run)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    second = _seconds(run)
    if cuda:
        memory, kind = torch.cuda.max_memory_allocated(), "peak of the device"
    else:
        # torch.compile itself would be most of it.
        known = resident is not None and not compiled
        memory = _resident("VmHWM") - resident if known else None
        kind = "growth of resident memory"
    # The first step does more than the second only where it compiles, or chooses for cuDNN.
    compile_seconds = max(first - second, 0.0) if compiled or cuda else 0.0
    device_name = torch.cuda.get_device_name() if cuda else "cpu"
    return Runner(run, compile_seconds, memory, kind, device_name)


def _network(name: str, job: Job):
    if name == "torchvision":
        if importlib.util.find_spec("torchvision") is None:
            raise InputError("torchvision is not installed: pip install torchvision")
        import torchvision

        return torchvision.models.get_model(job.model, num_classes=job.network.num_classes)
    from launch.benchmark.torch_densenet import TorchDenseNet

    return TorchDenseNet(job.network, checkpointed=name == "torch-checkpointed")


def _seconds(run) -> float:
    started = time.perf_counter()
    run(1)
    return time.perf_counter() - started


def _start_of_resident_peak() -> int | None:
    """Starts its record anew; resident bytes now. None where the system keeps no such record."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _resident("VmRSS")
    except OSError:
        return None


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
