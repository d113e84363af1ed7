"""Prints which files an epoch of training enters, and the calls from the loop to `train_step`.

    PYTHONPATH=tests:. python tests/train/route.py

Counts the files of this project whose functions the loop of `fit` calls, in any thread, during one
epoch of the small run on digits. `fit` traces `train_step` before the loop, when it compiles.
"""

import functools
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType
from unittest import mock

import small

from densenet_jax.train import fit as fit_module
from densenet_jax.train import step

MOST_FILES, MOST_CALLS = 16, 4
_TRAIN, _TRAIN_STEP = fit_module._train, step.train_step


class Route:
    """The files and functions that `fit` enters.

    Attributes:
      files: names of the functions that the loop calls, by file.
      calls: names of the functions from `fit` to `train_step`, both included.
    """

    def __init__(self) -> None:
        self.files: dict[str, set[str]] = {}
        self.calls: list[str] = []

    def profile(self, frame: FrameType, event: str, _) -> None:
        """Records a function call; see `sys.setprofile`."""
        if event == "call" and (file := _file(frame.f_code.co_filename)):
            self.files.setdefault(file, set()).add(frame.f_code.co_qualname)

    def train(self, *arguments):
        """Calls the loop of `fit`, and records which functions it calls in any thread."""
        threading.setprofile(self.profile)
        sys.setprofile(self.profile)
        try:
            return _TRAIN(*arguments)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    def train_step(self, *arguments):
        """Calls `train_step`, and records the functions on the stack."""
        self.calls = ["train_step"]
        frame = sys._getframe(1)
        while self.calls[0] != "fit":
            if _file(frame.f_code.co_filename):
                self.calls.insert(0, frame.f_code.co_name)
            frame = frame.f_back
        return _TRAIN_STEP(*arguments)


@functools.cache
def _file(name: str) -> str | None:
    """Returns the path of a file relative to the project, None for files elsewhere."""
    path = Path(name)
    return str(path.relative_to(small.ROOT)) if path.is_relative_to(small.ROOT) else None


def measure() -> Route:
    """Returns the route of one epoch."""
    route, config = Route(), small.config({"epochs": 1, "data.holdout": 0})
    with (
        tempfile.TemporaryDirectory() as directory,
        mock.patch.object(fit_module, "_train", route.train),
        mock.patch.object(step, "train_step", route.train_step),
    ):
        fit_module.fit(config, Path(directory) / "run")
    return route


if __name__ == "__main__":
    found = measure()
    for file, functions in sorted(found.files.items()):
        print(f"{file:44} {len(functions):3} functions")
    print(f"{len(found.files)} files, {sum(map(len, found.files.values()))} functions")
    print(f"{len(found.calls) - 1} calls: {' -> '.join(found.calls)}")
