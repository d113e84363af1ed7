"""Estimates how long a step of a compiled program takes, without the hardware.

On a GPU each kernel is taken to last as long as the longest of
  * its bytes over the bandwidth of a copy; slices of few channels cost whole sectors of memory,
  * its arithmetic over the rate of matrix products, with narrow channels padded to tiles,
  * the shortest time of any kernel: 2 us inside a CUDA graph, 4.5 us launched one by one.
So the estimate with 2 us is a lower bound. It ignores the L2 cache, cuDNN's choice of algorithm and
the padding kernels of cuDNN, and how well a kernel uses the memory. On an H100 steps took 1.7 to
2.4 times as long (launch/benchmark/NOTES.md): compare forms of a step with it, not machines.

On a TPU the compiler's own estimates are added up, in cycles. Collectives have none.
"""

import collections
import dataclasses
import itertools
import math
import re

from densenet_jax.analysis.hlo import (
    COLLECTIVES,
    Computation,
    Instruction,
    Program,
    moved_bytes,
)
from densenet_jax.analysis.targets import Target

# The shortest time of a kernel, in us: inside a CUDA graph, and launched one by one.
CAPTURED_US, LAUNCHED_US = 2.0, 4.5
# Bytes that a GPU's memory delivers at least.
SECTOR = 32
# Of the bandwidth in the data sheet, the share that a copy reaches; of the rate of arithmetic, the
# share that large matrix products reach.
COPY_SHARE, PRODUCT_SHARE = 0.9, 0.8
# Matrix products beside those of bfloat16, as a share of its rate; float32 runs as TF32.
_RATE_SHARES = {"f32": 1 / 2, "f64": 1 / 16}
# XLA turns this many kernels in a row, or more, into one CUDA graph, which is one launch.
GRAPH_KERNELS = 5
TOP_ORIGINS = 10

# What a fusion is called that has one of these instructions; the first one found counts.
_KINDS = {
    "concatenate": "concatenate",
    "reduce": "reduction",
    "reduce-window": "pooling",
    "select-and-scatter": "pooling",
    "gather": "gather",
    "scatter": "scatter",
    "sort": "sort",
    "transpose": "transpose",
    "copy-start": "copy",
    "copy": "copy",
}


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One instruction that takes time on the device.

    Attributes:
      family: "convolution" by cuDNN, "product", "collective" or "other".
      kind: what it computes, such as "3x3 convolution".
      origin: where it comes from in the network, such as "backward 3x3 kernel gradient".
      times: how often one step runs it.
      bytes: moved in memory.
      traffic_us: what moving whole sectors takes, at the bandwidth of a copy.
      product_us: what its matrix products take.
      cycles: what the compiler of a TPU expects; 0 on a GPU.
    """

    family: str
    kind: str
    origin: str
    times: int
    bytes: float
    traffic_us: float
    product_us: float
    cycles: int

    def bound_us(self, shortest: float) -> float:
        """Returns the least time of one run; no kernel is faster than `shortest`, in us."""
        return max(self.traffic_us, self.product_us, shortest)


def estimate(
    text: str, target: Target, batch_size: int, floor_bytes: float, floor_operations: float
) -> dict | None:
    """Estimates the time of a training step on one device of `target`.

    Args:
      text: the compiled program of one device.
      batch_size: images a step, of all devices.
      floor_bytes: that the network must move for an image, see `counts.count_fused`.
      floor_operations: of arithmetic for an image, a multiply-add being two.

    Returns:
      None for a CPU. Else, for one step on one device:
        kernels: instructions that the device runs; on a TPU those with an estimate of cycles,
          which are neither collectives nor copies in the background.
        launches: of kernels and CUDA graphs, if convolutions are not captured: XLA's default.
        launches_all_captured: the same if they are, as in our commands (see `train.compiler`).
        collectives: operations between devices.
        mb_an_image, floor_mb_an_image: megabytes of memory traffic, of the program and the least.
        floor_us: time for the least traffic, or for the arithmetic if that takes longer.
        times: by assumption ("captured", "launched") `us`, `images_per_second` of all devices,
          and `floor_share`, the floor's time as a share of `us`.
        cycles: on a TPU; None elsewhere, as what only exists for GPUs is None on a TPU.
        origins: the costliest places in the network: `origin`, `us` ("captured") or `cycles`,
          `kernels`, and on a GPU `mb`.
    """
    if target.platform == "cpu":
        return None
    images = batch_size / target.chips
    found = kernels(Program(text), target)
    collectives = sum(k.times for k in found if k.family == "collective")
    if target.platform == "tpu":
        found = [k for k in found if k.cycles]
    shared = {
        "kernels": sum(k.times for k in found),
        "collectives": collectives,
        "floor_mb_an_image": floor_bytes / 1e6,
        "origins": _origins(found, target.platform),
    }
    if target.platform == "tpu":
        missing = ("launches", "launches_all_captured", "mb_an_image", "floor_us", "times")
        return shared | dict.fromkeys(missing) | {"cycles": sum(k.times * k.cycles for k in found)}
    floor_us = 1e6 * max(
        images * floor_bytes / (COPY_SHARE * target.bandwidth),
        images * floor_operations / (PRODUCT_SHARE * target.peak_flops),
    )
    us = {
        "captured": sum(k.times * k.bound_us(CAPTURED_US) for k in found),
        "launched": sum(k.times * k.bound_us(LAUNCHED_US) for k in found),
    }
    times = {
        name: {"us": t, "images_per_second": 1e6 * batch_size / t, "floor_share": floor_us / t}
        for name, t in us.items()
    }
    return shared | {
        "launches": _launches(found, ("convolution", "collective")),
        "launches_all_captured": _launches(found, ("collective",)),
        "mb_an_image": sum(k.times * k.bytes for k in found) / images / 1e6,
        "floor_us": floor_us,
        "times": times,
        "cycles": None,
    }


def _launches(found: list[Kernel], alone: tuple[str, ...]) -> int:
    """Returns how often the host starts something, if the families in `alone` cut CUDA graphs."""
    total = 0
    # A loop inside a step cuts graphs as well, and is launched anew each time.
    for (is_alone, times), group in itertools.groupby(
        found, lambda k: (k.family in alone, k.times)
    ):
        kernels_in_a_row = len(list(group))
        one_graph = not is_alone and kernels_in_a_row >= GRAPH_KERNELS
        total += times * (1 if one_graph else kernels_in_a_row)
    return total


def _origins(found: list[Kernel], platform: str) -> list[dict]:
    """Returns the costliest origins, see `estimate`."""
    rows = {}
    for k in found:
        row = rows.setdefault(k.origin, collections.Counter())
        row["kernels"] += k.times
        if platform == "tpu":
            row["cycles"] += k.times * k.cycles
        else:
            row["us"] += k.times * k.bound_us(CAPTURED_US)
            row["mb"] += k.times * k.bytes / 1e6
    cost = "cycles" if platform == "tpu" else "us"
    costliest = sorted(rows.items(), key=lambda item: -item[1][cost])[:TOP_ORIGINS]
    return [{"origin": origin, **row} for origin, row in costliest]


def kernels(program: Program, target: Target) -> list[Kernel]:
    """Returns the kernels of one step, see `Program.step`, in the order of the program."""
    return [_kernel(program, *found, target) for found in program.step()]


def _kernel(
    program: Program, i: Instruction, computation: Computation, times: int, target: Target
) -> Kernel:
    fused = _fused(program, i)
    family, kind, multiply_adds, type_ = _work(i, computation, fused)
    phase, kind = _phase(i, kind, fused)
    bandwidth = COPY_SHARE * target.bandwidth
    rate = PRODUCT_SHARE * target.peak_flops * _RATE_SHARES.get(type_, 1)
    return Kernel(
        family=family,
        kind=kind,
        origin=f"{phase} {kind}",
        times=times,
        bytes=moved_bytes(program, i, computation),
        traffic_us=1e6 * moved_bytes(program, i, computation, SECTOR) / bandwidth,
        product_us=1e6 * 2 * multiply_adds / rate,
        cycles=i.cycles,
    )


def _fused(program: Program, i: Instruction) -> list[Instruction]:
    """Returns the instructions of a fusion, and of the fusions inside; none for others."""
    fused = program.called(i).values() if i.opcode == "fusion" else ()
    return [part for outer in fused for part in (outer, *_fused(program, outer))]


def _work(
    i: Instruction, computation: Computation, fused: list[Instruction]
) -> tuple[str, str, float, str]:
    """Returns what a kernel does.

    Returns:
      Its family: "convolution", "product", "collective" or "other"; its kind; the multiply-adds
      that the hardware needs for its products; and their type.
    """
    opcodes = {part.opcode for part in fused} or {i.opcode}
    if "cudnn$conv" in i.library_call:
        return "convolution", *_cudnn_convolution(i, computation)
    if any(opcode.startswith(COLLECTIVES) for opcode in opcodes):
        return "collective", "collective", 0, ""
    if "convolution" in opcodes:
        inside = next(part for part in (*fused, i) if part.opcode == "convolution")
        return "other", f"{_window(inside)} convolution", 0, ""
    if "cublas" in i.library_call or i.opcode == "dot":
        return "product", "matrix product", *_product(i, computation)
    if "dot" in opcodes:
        inside = {part.name: part for part in fused}
        dot = next(part for part in fused if part.opcode == "dot")
        return "product", "matrix product", *_product(dot, inside)
    if i.opcode == "custom-call":
        return "other", f"call of {i.library_call}", 0, ""
    named = (kind for opcode, kind in _KINDS.items() if opcode in opcodes)
    return "other", next(named, "element-wise"), 0, ""


def _cudnn_convolution(i: Instruction, computation: Computation) -> tuple[str, float, str]:
    """Returns kind, multiply-adds and type of a convolution, with channels padded to tiles."""
    left, right = (computation[name].arrays[0] for name in i.operands[:2])
    result, window = i.arrays[0], _window(i)
    size = math.prod(map(int, window.split("x")))
    if "BackwardFilter" in i.library_call:
        kind, kernel, output = "kernel gradient", result, right
    elif "BackwardInput" in i.library_call:
        kind, kernel, output = "input gradient", right, left
    else:
        kind, kernel, output = "convolution", right, result
    labels = re.split("_|->", i.attribute("dim_labels"))[1]
    inputs, outputs = (kernel.dims[labels.index(label)] for label in "io")
    padded = {
        "kernel gradient": _up(outputs, 64) * _up(inputs * size, 64),
        "input gradient": _up(inputs, 64) * _up(outputs, 16) * size,
        "convolution": _up(outputs, 64) * _up(inputs, 16) * size,
    }
    return f"{window} {kind}", math.prod(output.dims) / outputs * padded[kind], left.type


def _window(convolution: Instruction) -> str:
    """Returns the size of the kernel that moves over the input, such as "3x3"."""
    found = re.search(r"window=\{size=([\dx]+)", convolution.attributes)
    return found[1] if found else "1x1"


def _product(i: Instruction, computation: Computation) -> tuple[float, str]:
    """Returns the multiply-adds of a matrix product, and their type."""
    left = computation[i.operands[0]].arrays[0]
    found = re.search(r'lhs_contracting_dim\w*"?[=:][\[{]([^\]}]*)', i.attributes)
    axes = map(int, re.findall(r"\d+", found[1])) if found else [-1]
    return math.prod(i.arrays[0].dims) * math.prod(left.dims[axis] for axis in axes), left.type


def _up(n: int, multiple: int) -> int:
    return math.ceil(n / multiple) * multiple


def _phase(i: Instruction, kind: str, fused: list[Instruction]) -> tuple[str, str]:
    """Returns the part of the step that a kernel belongs to, and its kind as that part has it."""
    paths = (part.op_name for part in (i, *fused))
    path = next((path for path in paths if "/" in path), "")
    if "rematted_computation" in path:
        return "recomputed", kind
    if "transpose(" not in path:
        return "forward" if "jvp(" in path else "update", kind
    size, _, operation = kind.partition(" ")
    if operation == "convolution":
        # The gradient of a kernel slides the gradient of the output over the whole input.
        slides_output = max(map(int, size.split("x"))) >= 7
        kind = "kernel gradient" if slides_output else f"{size} input gradient"
    if kind == "element-wise" and path.endswith("add_any"):
        kind = "sum of gradients"
    return "backward", kind
