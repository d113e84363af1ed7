"""What machines do to a run, told in a sentence: no memory, no disk, no other process."""

import contextlib
import re
from collections.abc import Iterator

import jax

from densenet_jax.errors import InputError, Interrupted, Preempted, RunError
from densenet_jax.train.record import RunDirectory

# JAX and the libraries below it raise ValueError and RuntimeError for these.
_OF_CONNECTIONS = re.compile("gloo|nccl|connect|unavailable|deadline|heartbeat", re.IGNORECASE)
_GOES_ON = "what was saved before is kept, and the same command goes on from there"


@contextlib.contextmanager
def telling_of_failures(run: RunDirectory) -> Iterator[None]:
    """Turns such failures into `RunError`s."""
    try:
        yield
    except (InputError, RunError, Preempted):
        raise
    except OSError as error:
        path, reason = error.filename or run.path, error.strerror or error
        raise Interrupted(f"{path}: {reason}; {_GOES_ON} once that is mended.") from error
    except (MemoryError, ValueError, RuntimeError) as error:
        text = " ".join(str(error).split())[:300]
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
            raise RunError(
                f"there is not enough memory ({text}): lower batch_size, or choose a model.remat "
                "that keeps less. `python -m launch.plan` with the same --config tells what a step "
                "takes on a device, and the largest batch that fits."
            ) from error
        if jax.process_count() == 1 or not _OF_CONNECTIONS.search(text):
            raise
        raise Interrupted(
            f"another process of this run has ended or cannot be reached ({text}); {_GOES_ON}: "
            "give it on all hosts."
        ) from error
