"""Event files for TensorBoard, written by tensorboardX if it is installed."""

import contextlib
import functools
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import jax


@contextlib.contextmanager
def event_log(folder: Path, first_step: int) -> Iterator[Callable[[dict], None]]:
    """Yields a function that logs a line of metrics. Only the first process writes.

    The file is made with the first line. It tells TensorBoard to forget lines later than
    `first_step`, which an earlier start of the run may have logged.
    """
    if jax.process_index() > 0 or importlib.util.find_spec("tensorboardX") is None:
        yield lambda line: None
        return

    with contextlib.ExitStack() as stack:

        @functools.cache
        def writer():
            from tensorboardX import SummaryWriter  # Slow where PyTorch is: it imports PyTorch.

            # Of two starts within a second, only the suffix differs.
            opened = SummaryWriter(
                str(folder), purge_step=first_step + 1, filename_suffix=f".{first_step}"
            )
            stack.callback(close, opened)
            return opened

        def close(opened):
            with contextlib.suppress(OSError):  # A full disk, which ends the run already.
                opened.close()

        def log(line: dict) -> None:
            for name, value in line.items():
                if name != "step":
                    writer().add_scalar(name, value, line["step"])

        yield log
