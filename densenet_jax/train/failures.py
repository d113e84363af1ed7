"""Reports machine failures as one-line errors: no memory, no disk, no other process."""

import contextlib
import os
import re
from collections.abc import Iterator

import jax

from densenet_jax.errors import InputError, Interrupted, Preempted, RunError
from densenet_jax.train.compiler import EAGER_LOADING
from densenet_jax.train.record import RunDirectory

# Words in the ValueError or RuntimeError that JAX and its libraries raise for a lost connection.
_LOST_CONNECTION = re.compile("gloo|nccl|connect|unavailable|deadline|heartbeat", re.IGNORECASE)
_CUDNN = re.compile(r"cudnn|\bDNN\b", re.IGNORECASE)
_RESUME = "checkpoints are kept; run the same command again to resume"


@contextlib.contextmanager
def failures_reported(run: RunDirectory) -> Iterator[None]:
    """Raises `RunError` or `Interrupted` for failures of a machine."""
    try:
        yield
    except (InputError, RunError, Preempted):
        raise
    except OSError as error:
        path, reason = error.filename or run.path, error.strerror or error
        raise Interrupted(f"{path}: {reason}; {_RESUME} once that is fixed") from error
    except (MemoryError, ValueError, RuntimeError) as error:
        text = " ".join(str(error).split())[:300]
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
            raise RunError(
                f"there is not enough memory ({text}): lower batch_size, or choose a model.remat "
                "that keeps less. `python -m launch.plan` with the same --config reports the "
                "memory of a step, and the largest batch that fits"
            ) from error
        if jax.process_count() > 1 and _LOST_CONNECTION.search(text):
            raise Interrupted(
                f"another process of this run has ended or cannot be reached ({text}); {_RESUME}, "
                "on all hosts"
            ) from error
        name, eager = EAGER_LOADING
        if os.environ.get(name) == eager and _CUDNN.search(text):
            raise RunError(
                f"cuDNN failed ({text}). If this is the first step, leave convolutions out of CUDA "
                f"graphs by setting {name}=LAZY in the environment: steps will be slower"
            ) from error
        raise
