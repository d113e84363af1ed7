"""The contestants in PyTorch, which is not a dependency of the project."""

import importlib.util
import time
from pathlib import Path

from densenet_jax.errors import InputError
from launch.benchmark.job import (
    LEARNING_RATE,
    MOMENTUM,
    TORCHVISION_PEERS,
    WEIGHT_DECAY,
    Job,
    Runner,
)

# How torch.compile is asked to compile: "reduce-overhead" captures CUDA graphs.
COMPILE_MODES = {"torch-compiled": "default", "torch-graphs": "reduce-overhead"}
# The first step compiles, the second captures CUDA graphs, the third replays them.
_WARM_UP_STEPS_COMPILED = 3


def prepare(name: str, job: Job) -> Runner:
    """Returns the runner of a peer called "torch..."; see the help of `launch.benchmark`.

    Raises InputError if a package is missing, or if PyTorch cannot use the job's platform.
    """
    if importlib.util.find_spec("torch") is None:
        raise InputError("torch is not installed: pip install 'densenet_jax[bench]'")
    import torch

    cuda = job.platform == "gpu" and torch.cuda.is_available()
    if job.platform != "cpu" and not cuda:
        raise InputError(
            f"JAX runs on {job.platform}, but this PyTorch finds no CUDA device: install PyTorch "
            "for CUDA, or compare on CPU with JAX_PLATFORMS=cpu"
        )
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
    warm_up_steps = _WARM_UP_STEPS_COMPILED if compiled else 1
    warm_up = _seconds(run, warm_up_steps)
    peak = None
    if cuda:
        peak = torch.cuda.max_memory_allocated()
        if name == "torch-graphs":
            torch.cuda.empty_cache()  # Keeps the memory of the graphs.
        torch.cuda.reset_peak_memory_stats()
    step_seconds = _seconds(run, 1)
    if cuda:
        memory, kind = torch.cuda.max_memory_allocated(), "peak allocated since warm-up"
        if name == "torch-graphs":
            # A replayed graph uses memory that PyTorch's allocator counts as free, but reserved.
            memory, kind = torch.cuda.max_memory_reserved(), "peak reserved since warm-up"
        peak = max(peak, memory)
    else:
        # torch.compile itself would be most of it.
        known = resident is not None and not compiled
        memory = _resident("VmHWM") - resident if known else None
        kind = "growth of resident memory"
    # Warm-up takes longer than later steps only if it compiles, or chooses algorithms of cuDNN.
    longer = max(warm_up - warm_up_steps * step_seconds, 0.0)
    compile_seconds = longer if compiled or cuda else 0.0
    device_name = torch.cuda.get_device_name() if cuda else "cpu"
    return Runner(run, compile_seconds, memory, kind, device_name, peak)


def _network(name: str, job: Job):
    if name in TORCHVISION_PEERS:
        if importlib.util.find_spec("torchvision") is None:
            raise InputError("torchvision is not installed: pip install torchvision")
        import torchvision

        return torchvision.models.get_model(
            job.model,
            num_classes=job.network.num_classes,
            memory_efficient=name == "torchvision-efficient",
        )
    from launch.benchmark.torch_densenet import TorchDenseNet

    return TorchDenseNet(job.network, checkpointed=name == "torch-checkpointed")


def _seconds(run, steps: int) -> float:
    started = time.perf_counter()
    run(steps)
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
