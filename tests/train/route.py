"""Prints which files an epoch of training enters, and the calls from the loop to `train_step`.

    PYTHONPATH=tests:. python tests/train/route.py

Counts the files of this project whose functions are called, in any thread, while the loop of `fit`
trains the small run on digits. Programs are compiled before the loop, where `train_step` is traced.
"""

import functools
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType

import small

from densenet_jax.train import fit as fit_module

MOST_FILES, MOST_CALLS = 16, 4


class Route:
    """The files and functions that `fit` enters.

    Attributes:
      files: functions that the loop calls, by file.
      calls: names of the functions from `fit` to `train_step`, both included.
    """

    def __init__(self) -> None:
        self.files: dict[str, set[str]] = {}
        self.calls: list[str] = []
        self._is_looping = False

    def note(self, frame: FrameType, event: str, _) -> None:
        """Notes a call; for `sys.setprofile`."""
        if event not in ("call", "return") or (file := _file(frame.f_code.co_filename)) is None:
            return
        name = frame.f_code.co_qualname
        if name == "_train" and file.endswith("train/fit.py"):
            self._is_looping = event == "call"
        if event == "call" and self._is_looping:
            self.files.setdefault(file, set()).add(name)
        if event == "call" and name == "train_step" and not self.calls:
            self.calls = _calls(frame)


@functools.cache
def _file(name: str) -> str | None:
    """Returns the path of a file relative to the project, None for files elsewhere."""
    path = Path(name)
    return str(path.relative_to(small.ROOT)) if path.is_relative_to(small.ROOT) else None


def _calls(frame: FrameType | None) -> list[str]:
    """Returns the project's functions on the stack, from `fit` to that of `frame`."""
    names = []
    while frame and names[:1] != ["fit"]:
        if _file(frame.f_code.co_filename):
            names.insert(0, frame.f_code.co_name)
        frame = frame.f_back
    return names


def measure() -> Route:
    """Returns the route of one epoch."""
    route, config = Route(), small.config({"epochs": 1, "data.holdout": 0})
    with tempfile.TemporaryDirectory() as directory:
        threading.setprofile(route.note)
        sys.setprofile(route.note)
        try:
            fit_module.fit(config, Path(directory) / "run")
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    return route


if __name__ == "__main__":
    found = measure()
    for file, functions in sorted(found.files.items()):
        print(f"{file:44} {len(functions):3} functions")
    print(f"{len(found.files)} files, {sum(map(len, found.files.values()))} functions")
    print(f"{len(found.calls) - 1} calls: {' -> '.join(found.calls)}")
