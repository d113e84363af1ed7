"""Settings that a run needs from its process.

Importing this project changes nothing in a process. Commands call `configure` before JAX starts,
and `fit` calls it for Python users. environment.json records the settings.
"""

import ctypes
import logging
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import jax

from densenet_jax.train import compiler
from densenet_jax.train.mesh import all_devices

# While a thread writes a checkpoint, the training thread waits at most so long for its turn.
SWITCH_INTERVAL_SECONDS = 0.0005
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # See malloc.h.
_FREE_BYTES = 2**31 - 1  # Most free memory that the heap keeps.
_SILENCED = ("absl", "asyncio")  # Orbax logs at length through these what it raises as well.

# Set by a command that has reported its failure: errors in the background are then its effects.
failed = threading.Event()


def configure(jax_is_unused: bool = False) -> None:
    """Sets what makes steps faster and errors shorter, and starts JAX's backend.

    On CPU with the GNU C library, freed memory stays in the process: XLA allocates
    the temporary memory of each step anew, and to clear pages that come from the system takes 15 to
    20 % of a step.

    Args:
      jax_is_unused: whether JAX's backend has not started yet. Then CUDA can load all kernels at
        the start, so that CUDA graphs can hold convolutions; see compiler.py. Commands know that;
        `fit` does not, and leaves CUDA as it is.

    Raises InputError if JAX cannot use any device.
    """
    configure_errors()
    if jax_is_unused:
        os.environ.setdefault(*compiler.EAGER_LOADING)
    # Steps run on the main thread, because the heaps of other threads stay small.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    if all_devices()[0].platform == "cpu" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)  # Large blocks come from the heap as well,
        libc.mallopt(_M_TRIM_THRESHOLD, _FREE_BYTES)  # which keeps them when they are freed.


def configure_errors() -> None:
    """Shortens what is reported about background threads; leaves hooks of other programs alone."""
    for library in _SILENCED:
        logging.getLogger(library).setLevel(logging.CRITICAL)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _shortened(sys.__unraisablehook__)
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = _shortened(threading.__excepthook__)


def settings() -> dict[str, Any]:
    """Returns the settings of this process, for environment.json."""
    name, _ = compiler.EAGER_LOADING
    return {
        name: os.environ.get(name),
        "jax_cpu_enable_async_dispatch": jax.config.values["jax_cpu_enable_async_dispatch"],
        "switch_interval_seconds": sys.getswitchinterval(),
    }


def _shortened(hook: Callable) -> Callable[[Any], None]:
    """Returns a hook that reports an OSError of a thread, such as a full disk, in one line.

    It reports nothing once the command has `failed`: TensorBoard's writer tries again at the end.
    Nor does it report arrays that Orbax no longer waits for: Orbax raises the first error of the
    arrays that it reads or writes in parallel.
    """

    def report(args: Any) -> None:
        error = args.exc_value
        if isinstance(error, RuntimeError) and "loop is closed" in str(error):
            return
        if isinstance(error, KeyboardInterrupt):
            # A callback, such as JAX's for the garbage collector, dropped Ctrl-C: send it again.
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        elif not isinstance(error, OSError):
            hook(args)
        elif error.strerror and not failed.is_set():
            print(f"in the background: {error.strerror}", file=sys.stderr)

    return report
