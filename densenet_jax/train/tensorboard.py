"""Event files for TensorBoard, written by tensorboardX if it is installed."""

import contextlib
import functools
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax


@contextlib.contextmanager
def event_log(directory: Path, first_step: int) -> Iterator[Callable[[dict], None]]:
    """Yields a function that logs a line of metrics. Only the first process writes.

    Creates the file with the first line. The file makes TensorBoard drop lines later than
    `first_step`, which an earlier start of the run may have logged.
    """
    if jax.process_index() > 0 or importlib.util.find_spec("tensorboardX") is None:
        yield lambda line: None
        return

    with contextlib.ExitStack() as stack:

        @functools.cache
        def writer() -> Any:
            from tensorboardX import SummaryWriter  # Slow, because it imports PyTorch if it can.

            # Two starts within a second differ in their suffix only.
            opened = SummaryWriter(
                str(directory), purge_step=first_step + 1, filename_suffix=f".{first_step}"
            )
            stack.callback(close, opened)
            return opened

        def close(opened: Any) -> None:
            with contextlib.suppress(OSError):  # A full disk already ends the run.
                opened.close()

        def log(line: dict) -> None:
            for name, value in line.items():
                if name != "step":
                    writer().add_scalar(name, value, line["step"])

        yield log
