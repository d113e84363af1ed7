"""Estimates the time of a step of a compiled program without the hardware.

On a GPU the estimate for a kernel is the longest of three times:
  * its bytes over the bandwidth of a copy, where slices of few channels cost whole sectors,
  * its arithmetic over the rate of matrix products, with narrow channels padded to tiles,
  * the shortest time of any kernel: 2 us inside a CUDA graph, 4.5 us launched one by one.
The estimate with 2 us is a lower bound. The estimate ignores the L2 cache, the choice of algorithm
and the padding kernels of cuDNN, and how well a kernel uses the memory. On an H100, steps took 1.7
to 2.4 times the estimate (launch/benchmark/NOTES.md). Compare forms of a step, not machines.

On a TPU the estimate is the sum of the compiler's own estimates, in cycles. Collectives have none.
"""

import collections
import dataclasses
import itertools
import math
import re
from typing import NamedTuple

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
SECTOR_BYTES = 32  # The least that the memory of a GPU delivers.
# Share of the bandwidth in the data sheet that a copy reaches, and share of the peak arithmetic
# that large matrix products reach.
COPY_SHARE, PRODUCT_SHARE = 0.9, 0.8
# Rates of matrix products of other types, as a share of the rate of bfloat16. float32 runs as TF32.
_RATE_SHARES = {"f32": 1 / 2, "f64": 1 / 16}
MIN_GRAPH_KERNELS = 5  # XLA turns at least this number of consecutive kernels into a CUDA graph.
TOP_ORIGINS = 10  # Number of places in the network that an estimate lists.

# Kind of a fusion that contains one of these instructions; the first match counts.
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


class Rates(NamedTuple):
    """Rates that kernels reach: bytes a second of copies, operations a second of products."""

    copy: float
    product: float


def reachable_rates(target: Target) -> Rates | None:
    """Returns the rates that kernels reach on a chip of `target`, or None if unknown."""
    if target.bandwidth is None or target.peak_flops is None:
        return None
    return Rates(COPY_SHARE * target.bandwidth, PRODUCT_SHARE * target.peak_flops)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One instruction that takes time on the device.

    Attributes:
      family: "convolution" (by cuDNN), "product", "collective" or "other".
      kind: the computation, such as "3x3 convolution".
      origin: place in the network, such as "backward 3x3 kernel gradient".
      times: number of runs in one step.
      bytes: memory traffic of one run.
      traffic_us: time for moving whole sectors at the bandwidth of a copy.
      product_us: time for the matrix products.
      cycles: estimate of a TPU compiler; 0 on a GPU.
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
        """Returns the least time of one run, given the `shortest` time of any kernel, in us."""
        return max(self.traffic_us, self.product_us, shortest)


def estimate(
    text: str, target: Target, batch_size: int, floor_bytes: float, floor_operations: float
) -> dict | None:
    """Estimates the time of a training step on one device of `target`.

    Args:
      text: the compiled program of one device.
      batch_size: images in one step of all devices.
      floor_bytes: least memory traffic for one image, see `counts.count_fused_step_io`.
      floor_operations: arithmetic for one image; a multiply-add is two operations.

    Returns:
      None if the rates of the target are unknown, as for a CPU. Otherwise, for one step on one
      device:
        kernels: number of instructions that the device runs. On a TPU only instructions with an
          estimate of cycles count, which excludes collectives and copies in the background.
        launches: number of launched kernels and CUDA graphs if graphs capture no convolutions,
          which is XLA's default.
        launches_all_captured: the same number if graphs capture convolutions, as they do in the
          commands of this project (see `train.compiler`).
        collectives: number of operations between devices.
        mb_an_image, floor_mb_an_image: memory traffic of the program, and the least traffic.
        floor_us: time for the least traffic, or for the arithmetic if that is longer.
        times: for each assumption ("captured", "launched") `us`, `images_per_second` of all
          devices, and `floor_share`, the ratio of `floor_us` to `us`.
        cycles: cycles on a TPU, None on a GPU. Values that exist for GPUs only are None on a TPU.
        origins: the costliest places in the network, with `origin`, `us` ("captured") or `cycles`,
          `kernels`, and on a GPU `mb`.
    """
    rates = reachable_rates(target)
    if rates is None:
        return None
    images = batch_size / target.chips
    found = kernels(Program(text), rates)
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
        images * floor_bytes / rates.copy,
        images * floor_operations / rates.product,
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
        "launches": _count_launches(found, ("convolution", "collective")),
        "launches_all_captured": _count_launches(found, ("collective",)),
        "mb_an_image": sum(k.times * k.bytes for k in found) / images / 1e6,
        "floor_us": floor_us,
        "times": times,
        "cycles": None,
    }


def _count_launches(found: list[Kernel], alone: tuple[str, ...]) -> int:
    """Counts the launches by the host if CUDA graphs do not capture the families in `alone`."""
    total = 0
    # A loop inside a step also ends a graph, and each of its trips is launched.
    for (is_alone, times), group in itertools.groupby(
        found, lambda k: (k.family in alone, k.times)
    ):
        kernels_in_a_row = len(list(group))
        one_graph = not is_alone and kernels_in_a_row >= MIN_GRAPH_KERNELS
        total += times * (1 if one_graph else kernels_in_a_row)
    return total


def _origins(found: list[Kernel], platform: str) -> list[dict]:
    """Returns the costliest origins, see `estimate`."""
    groups: dict[str, list[Kernel]] = collections.defaultdict(list)
    for k in found:
        groups[k.origin].append(k)
    rows = []
    for origin, group in groups.items():
        row: dict = {"origin": origin, "kernels": sum(k.times for k in group)}
        if platform == "tpu":
            row["cycles"] = sum(k.times * k.cycles for k in group)
        else:
            row["us"] = sum(k.times * k.bound_us(CAPTURED_US) for k in group)
            row["mb"] = sum(k.times * k.bytes / 1e6 for k in group)
        rows.append(row)
    cost = "cycles" if platform == "tpu" else "us"
    return sorted(rows, key=lambda row: -row[cost])[:TOP_ORIGINS]


def kernels(program: Program, rates: Rates) -> list[Kernel]:
    """Returns the kernels of one step, see `Program.step`, in the order of the program."""
    return [_kernel(program, *execution, rates) for execution in program.step()]


def _kernel(
    program: Program, i: Instruction, computation: Computation, times: int, rates: Rates
) -> Kernel:
    fused = _fused(program, i)
    family, kind, multiply_adds, type_ = _classify(i, computation, fused)
    phase, kind = _phase(i, kind, fused)
    rate = rates.product * _RATE_SHARES.get(type_, 1)
    return Kernel(
        family=family,
        kind=kind,
        origin=f"{phase} {kind}",
        times=times,
        bytes=moved_bytes(program, i, computation),
        traffic_us=1e6 * moved_bytes(program, i, computation, SECTOR_BYTES) / rates.copy,
        product_us=1e6 * 2 * multiply_adds / rate,
        cycles=i.cycles,
    )


def _fused(program: Program, i: Instruction) -> list[Instruction]:
    """Returns the instructions of a fusion and of the fusions in it, or none for others."""
    fused = program.called(i).values() if i.opcode == "fusion" else ()
    return [part for outer in fused for part in (outer, *_fused(program, outer))]


def _classify(
    i: Instruction, computation: Computation, fused: list[Instruction]
) -> tuple[str, str, float, str]:
    """Returns the family and the kind of a kernel, its multiply-adds and their type.

    Multiply-adds are those that the hardware needs for matrix products and cuDNN convolutions.
    """
    opcodes = {part.opcode for part in fused} or {i.opcode}
    if "cudnn$conv" in i.library_call:
        return "convolution", *_cudnn_convolution(i, computation)
    if any(opcode.startswith(COLLECTIVES) for opcode in opcodes):
        return "collective", "collective", 0, ""
    if "convolution" in opcodes:
        convolution = next(part for part in (*fused, i) if part.opcode == "convolution")
        return "other", f"{_window(convolution)} convolution", 0, ""
    if "cublas" in i.library_call or i.opcode == "dot":
        return "product", "matrix product", *_product(i, computation)
    if "dot" in opcodes:
        dot = next(part for part in fused if part.opcode == "dot")
        return "product", "matrix product", *_product(dot, {part.name: part for part in fused})
    if i.pallas_cost:
        type_ = computation[i.operands[0]].arrays[0].type
        return "other", "Pallas kernel", i.pallas_cost["multiply_adds"], type_
    if i.opcode == "custom-call":
        return "other", f"call of {i.library_call}", 0, ""
    named = (kind for opcode, kind in _KINDS.items() if opcode in opcodes)
    return "other", next(named, "element-wise"), 0, ""


def _cudnn_convolution(i: Instruction, computation: Computation) -> tuple[str, float, str]:
    """Returns the kind, multiply-adds and type of a convolution with channels padded to tiles."""
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
        "kernel gradient": _round_up(outputs, 64) * _round_up(inputs * size, 64),
        "input gradient": _round_up(inputs, 64) * _round_up(outputs, 16) * size,
        "convolution": _round_up(outputs, 64) * _round_up(inputs, 16) * size,
    }
    return f"{window} {kind}", math.prod(output.dims) / outputs * padded[kind], left.type


def _window(convolution: Instruction) -> str:
    """Returns the spatial size of the kernel, such as "3x3"."""
    found = re.search(r"window=\{size=([\dx]+)", convolution.attributes)
    return found[1] if found else "1x1"


def _product(i: Instruction, computation: Computation) -> tuple[float, str]:
    """Returns the multiply-adds of a matrix product and their type."""
    left = computation[i.operands[0]].arrays[0]
    found = re.search(r'lhs_contracting_dim\w*"?[=:][\[{]([^\]}]*)', i.attributes)
    axes = map(int, re.findall(r"\d+", found[1])) if found else [-1]
    return math.prod(i.arrays[0].dims) * math.prod(left.dims[axis] for axis in axes), left.type


def _round_up(n: int, multiple: int) -> int:
    return math.ceil(n / multiple) * multiple


def _phase(i: Instruction, kind: str, fused: list[Instruction]) -> tuple[str, str]:
    """Returns the phase of the step that a kernel belongs to, and the name of its kind there."""
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
