"""Checks the opcodes of a pickle for excessive memory and time before the pickle is loaded.

A pickle of 100 bytes can allocate gigabytes by storing an object under a huge index. Nested tuples
that each hold the next one twice take years to hash. Deeply nested tuples crash the process that
hashes them.
"""

import pickletools
from collections.abc import Iterator
from typing import BinaryIO

MAX_OPCODES = 2**21  # Each builds at most about 300 bytes of objects. All of CIFAR-100 has 200,000.
MAX_DEPTH = 500  # Levels of nested objects; whole PyTorch modules reach about 100.
MAX_OBJECTS = 2**24  # Inside one object; a shared object counts at each use.

_Size = tuple[int, int]  # Depth of an object, and the number of objects in it.

_CONTAINERS_GROW = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}
_TOO_LARGE = "it asks for too much memory"
_ATOM: _Size = 0, 1  # A number or a string.


def check(file: BinaryIO) -> None:
    """Raises ValueError if the pickle at the position of `file` is damaged or needs too much.

    Raises EOFError if the pickle is cut off. Restores the position of `file`.
    """
    start = file.tell()
    try:
        _check(file)
    except (IndexError, KeyError) as error:
        raise ValueError("its opcodes do not fit together") from error
    finally:
        file.seek(start)


def _check(file: BinaryIO) -> None:
    """Follows the opcodes with the sizes of objects in place of the objects."""
    stack: list[_Size] = []
    marks: list[int] = []  # Lengths of the stack.
    memo: dict[int, _Size] = {}
    for count, (opcode, argument, _) in enumerate(_opcodes(file)):
        name = opcode.name
        if count >= MAX_OPCODES:
            raise ValueError(_TOO_LARGE)
        if name == "MEMOIZE" or name.endswith("PUT"):
            index = len(memo) if name == "MEMOIZE" else argument
            if index > MAX_OPCODES:  # Unpickling allocates a memo of this length.
                raise ValueError(_TOO_LARGE)
            memo[index] = stack[-1]
        elif name.endswith("GET"):
            stack.append(memo[argument])
        elif name == "MARK":
            marks.append(len(stack))
        elif name == "DUP":
            stack.append(stack[-1])
        elif name == "POP" and marks and marks[-1] == len(stack):
            marks.pop()
        else:
            taken = _take(stack, marks, opcode.stack_before)
            if opcode.stack_after:
                made = _combine(name, taken) if taken else _ATOM
                if made[0] > MAX_DEPTH:
                    raise ValueError(f"its objects are nested more than {MAX_DEPTH} deep")
                if made[1] > MAX_OBJECTS:
                    raise ValueError(_TOO_LARGE)
                stack.append(made)


def _opcodes(file: BinaryIO) -> Iterator[tuple]:
    try:
        yield from pickletools.genops(file)
    except ValueError as error:
        if not file.read(1):
            raise EOFError("it is cut off") from error
        raise


def _take(stack: list[_Size], marks: list[int], before: list) -> list[_Size]:
    """Removes the operands of an opcode from `stack` and returns them.

    `before` describes the operands as `pickletools` does.
    """
    if not before:
        return []
    if pickletools.markobject in before:
        first = marks.pop() - before.index(pickletools.markobject)
    else:
        first = len(stack) - len(before)
    if first < 0:
        raise IndexError
    taken = stack[first:]
    del stack[first:]
    return taken


def _combine(name: str, taken: list[_Size]) -> _Size:
    """Returns the size of the object that an opcode builds from its operands."""
    depth = 1 + max(depth for depth, _ in taken)
    if name in _CONTAINERS_GROW:
        (depth, _), *items = taken
        depth = max([depth, *(1 + item for item, _ in items)])
    return depth, 1 + sum(objects for _, objects in taken)
