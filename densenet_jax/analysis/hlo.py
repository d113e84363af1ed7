"""Parses the text of compiled XLA programs and counts the bytes of memory that they move."""

import collections
import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

_ITEM_BYTES = {
    "token": 0, "pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2,
    "f64": 8, "s64": 8, "u64": 8, "c64": 8, "c128": 16,
}  # fmt: skip
# Instructions that neither compute nor copy on the device.
_FREE = {
    "parameter", "constant", "get-tuple-element", "bitcast", "tuple", "after-all", "domain",
    "optimization-barrier", "opt-barrier", "partition-id", "replica-id", "add-dependency",
}  # fmt: skip
# Element-wise instructions: element i of the result needs only element i of each operand.
_ELEMENT_WISE = {
    "abs", "add", "and", "bitcast", "compare", "convert", "copy", "divide", "exponential", "log",
    "maximum", "minimum", "multiply", "negate", "not", "or", "power", "rsqrt", "select", "sqrt",
    "subtract", "tanh", "xor",
}  # fmt: skip
# Prefixes of the opcodes of exchanges between devices.
COLLECTIVES = (
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute",
)  # fmt: skip
# Longer contiguous pieces waste little of their first and last sector.
_LONG_PIECE_SECTORS = 8

_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+[a-z0-9]*)\[([\d,]*)\](?:\{([\d,]*)[^}]*\})?")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)")
_OUTERMOST = re.compile(r"jit\([^/]*\)/while")
# Inside a string, where XLA writes quotation marks as \22.
_PALLAS_COST = re.compile(r"(moved_bytes|multiply_adds)\\22: \\22(\d+)")
_NAME = re.compile(r"%([\w.\-]+)")


class Array(NamedTuple):
    """The type, shape and layout of an array.

    Attributes:
      type: XLA's name, such as "bf16".
      dims: length of each dimension.
      minor_to_major: indices of the dimensions, starting with the one contiguous in memory.
    """

    type: str
    dims: tuple[int, ...]
    minor_to_major: tuple[int, ...]

    @property
    def item_bytes(self) -> int:
        return _ITEM_BYTES.get(self.type, 1 if self.type.startswith("f8") else 4)

    @property
    def bytes(self) -> int:
        return self.item_bytes * math.prod(self.dims)


class Instruction:
    """One instruction of a program.

    Attributes:
      name: unique name in the program, without the percent sign.
      opcode: XLA's name of the operation, such as "fusion".
      operands: names of instructions of the same computation.
      is_root: whether the computation returns the result of the instruction.
      attributes: text behind the operands.
    """

    def __init__(self, name: str, text: str, is_root: bool):
        self.name, self.is_root = name, is_root
        if text.startswith("("):
            end = _find_closing(text, 0) + 1
            self._shape, text = text[:end], text[end:].lstrip()
        else:
            self._shape, _, text = text.partition(" ")
        self.opcode, _, text = text.partition("(")
        end = _find_closing("(" + text, 0) - 1
        self.operands = _NAME.findall(text[:end])
        self.attributes = text[end + 1 :]

    @functools.cached_property
    def arrays(self) -> list[Array]:
        """Arrays of the result: one, or all arrays of a tuple."""
        found = []
        for type_, dims, layout in _ARRAY.findall(self._shape):
            lengths = tuple(map(int, filter(None, dims.split(","))))
            order = tuple(map(int, filter(None, layout.split(","))))
            found.append(Array(type_, lengths, order or tuple(range(len(lengths)))[::-1]))
        return found

    @property
    def bytes(self) -> int:
        return sum(array.bytes for array in self.arrays)

    def attribute(self, key: str) -> str:
        """Returns the value of `key=value`, without braces or percent sign; "" if absent."""
        found = re.search(rf"\b{key}=(?:\{{([^}}]*)\}}|([^\s,]+))", self.attributes)
        return (found[1] or found[2] or "").lstrip("%") if found else ""

    @functools.cached_property
    def op_name(self) -> str:
        """Path of the JAX operation that the instruction comes from, or "" if unknown."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""

    @property
    def library_call(self) -> str:
        """Library function of a custom call, such as "__cudnn$convForward", or "" if none."""
        return self.attribute("custom_call_target").strip('"')

    @functools.cached_property
    def pallas_cost(self) -> dict[str, int]:
        """Costs that models/kernels.py states for its kernels: `moved_bytes`, `multiply_adds`."""
        return {key: int(n) for key, n in _PALLAS_COST.findall(self.attributes)}

    @property
    def cycles(self) -> int:
        """Cycles that a TPU compiler estimates for the instruction, or 0 without an estimate."""
        found = re.search(r'"estimated_cycles":"(\d+)"', self.attributes)
        return int(found[1]) if found else 0


def instructions(text: str) -> Iterator[Instruction]:
    """Yields every instruction in the text, of all computations."""
    for line in text.splitlines():
        if found := _INSTRUCTION.match(line):
            yield Instruction(found[2], found[3], bool(found[1]))


Computation = dict[str, Instruction]
# An instruction, the computation that holds it, and how often one step runs it.
Execution = tuple[Instruction, Computation, int]


class Program:
    """A compiled program.

    Attributes:
      computations: computations by name. Each has its instructions by name, in order.
      entry: name of the computation that the program starts with.
    """

    def __init__(self, text: str):
        self.computations: dict[str, Computation] = {}
        self.entry = ""
        current: Computation | None = None
        for line in text.splitlines():
            if line[:1].isspace():
                found = _INSTRUCTION.match(line)
                if found and current is not None:
                    current[found[2]] = Instruction(found[2], found[3], bool(found[1]))
            elif found := _COMPUTATION.match(line):
                current = self.computations[found[2]] = {}
                self.entry = found[2] if found[1] else self.entry

    def called(self, instruction: Instruction, key: str = "calls") -> Computation:
        """Returns the computation that `instruction` names under `key`, or an empty one."""
        return self.computations.get(instruction.attribute(key), {})

    def step(self) -> list[Execution]:
        """Returns the instructions of one training step that take time.

        A step is one trip of the outermost loop of the jitted function, or of the longest loop if
        that has at least half of the program's instructions. Otherwise a step is the whole program.
        """
        whole = self._running(self.computations.get(self.entry, {}), 1)
        loops = [i for i, _, times in whole if i.opcode == "while" and times == 1]
        bodies = [self._running(self.called(loop, "body"), 1) for loop in loops]
        pairs = zip(loops, bodies, strict=True)
        outermost = [body for loop, body in pairs if _OUTERMOST.fullmatch(loop.op_name)]
        longest = _longest(outermost or bodies)
        step = longest if outermost or 2 * len(longest) >= len(whole) else whole
        return [found for found in step if found[0].opcode != "while"]

    def _running(self, computation: Computation, times: int) -> list[Execution]:
        """Returns what `step` returns, and each loop before the instructions in it."""
        found: list[Execution] = []
        for i in computation.values():
            if i.opcode in _FREE or i.opcode.endswith(("-done", "-update")):
                continue
            if i.opcode == "while":
                known = re.search(r'known_trip_count":\{"n":"(\d+)"', i.attributes)
                trips = int(known[1]) if known else 1
                found.append((i, computation, times))
                found += self._running(self.called(i, "body"), times * trips)
            elif i.opcode == "conditional":
                names = _NAME.findall(i.attributes)
                branches = [self.computations[name] for name in names if name in self.computations]
                found += _longest(self._running(branch, times) for branch in branches)
            elif i.opcode in ("call", "async-start"):
                inner = self.called(i) or self.called(i, "to_apply")
                found += self._running(inner, times)
            else:
                found.append((i, computation, times))
        return found


def _longest(candidates: Iterable[list[Execution]]) -> list[Execution]:
    return max(candidates, key=lambda executions: len(executions), default=[])


def moved_bytes(
    program: Program, instruction: Instruction, computation: Computation, sector: int = 1
) -> float:
    """Returns the bytes of memory that an instruction reads and writes.

    Each operand, or the slice taken from it, is read once. Each result is written once. An update
    in place writes only the changed part.

    Args:
      sector: the least number of bytes that memory delivers, and their alignment. Pieces that are
        not contiguous cost whole sectors.
    """
    fused = program.called(instruction) if instruction.opcode == "fusion" else {}
    if fused:
        return _read_bytes(fused, sector) + _written_bytes(instruction, fused)
    if instruction.pallas_cost:
        return instruction.pallas_cost["moved_bytes"]
    inputs = sum(computation[name].bytes for name in dict.fromkeys(instruction.operands))
    if instruction.opcode == "dynamic-update-slice":
        return 2 * computation[instruction.operands[1]].bytes
    if instruction.opcode in ("slice", "dynamic-slice", "gather"):
        return 2 * instruction.bytes
    if instruction.opcode.endswith("-start"):  # The result is a tuple that repeats the operands.
        return 2 * inputs
    return inputs + _result_bytes(instruction)


def _result_bytes(instruction: Instruction) -> int:
    """Returns the bytes of the result without the scratch memory of a library call."""
    arrays = instruction.arrays
    if instruction.library_call and len(arrays) > 1 and arrays[-1].type in ("u8", "s8"):
        arrays = arrays[:-1]
    return sum(array.bytes for array in arrays)


def _read_bytes(fused: Computation, sector: int) -> float:
    """Returns the bytes that a fused computation reads from its parameters.

    Element-wise operations before a slice are computed for the slice alone.
    """
    # The regions needed of each instruction, as functions from the bytes of an item to a share of
    # the array. The bytes are open because a parameter may be converted before it is sliced.
    needs: dict[str, dict[str, Callable[[int], float]]] = collections.defaultdict(dict)
    everything = {"all": functools.partial(_constant, 1.0)}
    for i in reversed(fused.values()):  # Users come after what they use.
        for position, name in enumerate(i.operands):
            if name not in fused:
                continue
            if i.opcode in ("slice", "dynamic-slice") and position == 0:
                region = i.attribute("slice") or i.name
                whole = fused[name].arrays[0]
                needs[name][region] = functools.partial(_slice_share, i.arrays[0], whole, sector)
            elif i.opcode == "gather" and position == 0:
                share = min(1.0, i.bytes / (fused[name].bytes or 1))
                needs[name][i.name] = functools.partial(_constant, share)
            elif i.opcode == "dynamic-update-slice" and position == 0:
                continue  # Updated in place.
            elif i.opcode in _ELEMENT_WISE and not i.is_root:
                needs[name] |= needs[i.name]
            else:
                needs[name] |= everything
    total = 0.0
    for i in fused.values():
        if i.opcode == "parameter" and i.arrays:
            shares = (share(i.arrays[0].item_bytes) for share in needs[i.name].values())
            # Whole sectors of many small pieces may add up to more than the array.
            total += i.bytes * min(1.0, sum(shares))
    return total


def _constant(share: float, item_bytes: int) -> float:
    return share


def _written_bytes(instruction: Instruction, fused: Computation) -> int:
    root = next(i for i in fused.values() if i.is_root)
    results = [fused[name] for name in root.operands] if root.opcode == "tuple" else [root]
    total = 0
    for result in results:
        while result.opcode == "bitcast":
            result = fused[result.operands[0]]
        updates_in_place = result.opcode == "dynamic-update-slice"
        total += fused[result.operands[1]].bytes if updates_in_place else result.bytes
    return total


def _slice_share(part: Array, whole: Array, sector: int, item_bytes: int) -> float:
    """Returns the bytes read for the slice `part` of `whole`, as a share of `whole`."""
    share = math.prod(part.dims) / max(math.prod(whole.dims), 1)
    piece = item_bytes  # Bytes that are contiguous in memory.
    for dimension in whole.minor_to_major:
        piece *= part.dims[dimension]
        if part.dims[dimension] != whole.dims[dimension]:
            break
    if not piece or piece >= _LONG_PIECE_SECTORS * sector:
        return share
    # The mean number of sectors for a piece; pieces start at multiples of `aligned`.
    aligned = math.gcd(piece, sector)
    starts = range(0, sector, aligned)
    sectors = sum(math.ceil((start + piece) / sector) for start in starts) / len(starts)
    return share * sectors * sector / piece


def _find_closing(text: str, start: int) -> int:
    """Returns the index of the parenthesis that closes the one at `start`."""
    depth = 0
    for index in range(start, len(text)):
        depth += (text[index] == "(") - (text[index] == ")")
        if not depth:
            return index
    return len(text)
