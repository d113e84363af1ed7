"""Checks pickles before they are read: their opcodes alone tell how much memory and time they take.

A file of 100 bytes can ask for gigabytes, by an object under a huge number, or for years, by tuples
that hold one another twice. Deeply nested tuples end the process when they are hashed.
"""

import pickletools
from collections.abc import Iterator
from typing import BinaryIO

MAX_OPCODES = 2**21  # Each makes at most some 300 bytes of objects. All of CIFAR-100 has 200,000.
MAX_DEPTH = 500  # Objects inside objects; whole PyTorch modules reach about 100.
MAX_OBJECTS = 2**24  # Inside one object, counting an object that is shared each time.

_CONTAINERS_GROW = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}
_TOO_LARGE = "it asks for too much memory"
_ATOM = 0, 1  # Depth and objects of a number or a string.


def check(file: BinaryIO) -> None:
    """Raises ValueError if the pickle at the position of `file` is damaged or asks for too much.

    Raises EOFError if it is cut off. Leaves the position of `file` as it is.
    """
    start = file.tell()
    try:
        _check(file)
    except (IndexError, KeyError) as error:
        raise ValueError("its opcodes do not fit together") from error
    finally:
        file.seek(start)


def _check(file: BinaryIO) -> None:
    """Follows the opcodes with depths and numbers of objects in place of objects."""
    stack, marks, memo = [], [], {}  # `marks` are lengths of the stack.
    for count, (opcode, argument, _) in enumerate(_opcodes(file)):
        name = opcode.name
        if count >= MAX_OPCODES:
            raise ValueError(_TOO_LARGE)
        if name == "MEMOIZE" or name.endswith("PUT"):
            index = len(memo) if name == "MEMOIZE" else argument
            if index > MAX_OPCODES:  # Unpickling makes room for all lower numbers.
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


def _take(stack: list, marks: list[int], before: list) -> list:
    """Removes from `stack`, and returns, what an opcode takes: `before`, by pickletools."""
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


def _combine(name: str, taken: list[tuple[int, int]]) -> tuple[int, int]:
    """Returns the depth and the objects of what the opcode makes of what it takes."""
    depth = 1 + max(depth for depth, _ in taken)
    if name in _CONTAINERS_GROW:
        (depth, _), *items = taken
        depth = max([depth, *(1 + item for item, _ in items)])
    return depth, 1 + sum(objects for _, objects in taken)
