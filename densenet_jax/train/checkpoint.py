"""Checkpoints of a run, through Orbax.

    checkpoints/STEP/state/       the train state: nested dicts of arrays (OCDBT)
    checkpoints/STEP/progress/    a JSON object: `format`, `progress`, `step`, `best` (the step of
                                  the best checkpoint) and `arrays` (the SHA-256 of each array)
    checkpoints/STEP/SHA256SUMS   of the files in those two, as `sha256sum --check` reads it
    checkpoints/STEP.damaged/     a checkpoint that could not be read, and was set aside

STEP is the number of steps trained. A checkpoint is written under another name, read back, put on
disk and then renamed. It holds global arrays: any number of devices and processes can resume from
it. All of this stays as it is for as long as `FORMAT` does; early checkpoints lack `step`, `best`
and `arrays`.
"""

import contextlib
import dataclasses
import errno
import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from densenet_jax.errors import InputError, Interrupted
from densenet_jax.files import sync
from densenet_jax.train.integrity import (
    Unreadable,
    check_sums,
    compare,
    digests,
    write_sums,
)
from densenet_jax.train.record import RunDirectory, best_epoch, free_name
from densenet_jax.train.step import TrainState

FORMAT = 1
KEPT = 2  # The last ones, beside the best.

_FILE_BYTES = 4096  # What an array takes beside its numbers, at most.
_DISK_FULL = "the disk is full"
_REASONS = {os.strerror(errno.ENOSPC): _DISK_FULL} | {
    text: text for text in map(os.strerror, (errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO))
}
_REASON_CHARACTERS = 300  # Of an exception's message that are shown.
# A reader lists the checkpoints again so often if a running training deletes what it reads.
_READS = 20

_log = logging.getLogger(__name__)

Read = TypeVar("Read")


class Checkpoints:
    """The checkpoints in a directory; saves in the background. A context manager.

    Args:
      folder: created if missing.
      read_only: leave the directory as it is; another process may be writing to it.
    """

    def __init__(self, folder: Path, read_only: bool = False):
        self._folder, self._read_only = folder.absolute(), read_only
        self._policy = _LastAndBest()
        if not read_only and jax.process_index() == 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            sync(self._folder.parent)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy,
            cleanup_tmp_directories=not read_only,
            lightweight_initialize=True,  # Metadata may be damaged as well.
            read_only=read_only,
            async_options=ocp.AsyncOptions(
                post_finalization_callback=self._seal,
                barrier_sync_fn=_wait_for_processes,
                # Orbax waits by the time of day, which may be set while it does.
                timeout_secs=10**7,
                create_directories_asynchronously=False,
            ),
        )
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *exception) -> None:
        if kind is None:
            self.wait()
            self._manager.close()
        elif jax.process_count() == 1:  # Another process, which would have to help, may be dead.
            with contextlib.suppress(Interrupted):
                self.wait()

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, the newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, state: TrainState, progress: dict[str, Any], best: int | None = None) -> None:
        """Starts saving; returns as soon as `state` may be donated.

        Args:
          state: the train state, at least one step after what was saved before.
          progress: what JSON can hold.
          best: the step of the best checkpoint, which is kept beside the last ones.

        Raises:
          Interrupted: this checkpoint, or the one before, which was written in the background,
            cannot be written. What was whole before stays.
        """
        self.wait()
        self._policy.best = best
        self._saving = int(state.step)
        arrays = _as_dict(state)
        with self._telling_of_failure():
            if jax.process_index() == 0:
                self._check_room(jax.tree.leaves(arrays))
            self._structure = jax.tree.map(lambda _: 0, arrays)
            self._digests = digests(arrays)
            record = {"format": FORMAT, "progress": progress, "step": self._saving}
            record |= {"best": best, "arrays": self._digests}
            is_begun = self._manager.save(
                self._saving,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(arrays), progress=ocp.args.JsonSave(record)
                ),
            )
            if not is_begun:
                raise RuntimeError(f"Orbax does not save step {self._saving} after {self.steps()}")

    def wait(self) -> None:
        """Returns when all checkpoints are on disk. Raises Interrupted if one cannot be written."""
        with self._telling_of_failure():
            self._manager.wait_until_finished()
            if not self._read_only and jax.process_index() == 0:
                sync(self._folder)  # The name of the last one.

    def restore(self, like: TrainState, which: str = "last") -> tuple[TrainState, dict[str, Any]]:
        """Returns a train state, with the shapes, types and shardings of `like`, and its progress.

        If the last checkpoint cannot be read, this is reported, it is set aside, and the one before
        is read. Removes what an interrupted deletion left of older checkpoints.

        Args:
          which: "last", or "best" as of the last one.

        Raises:
          InputError: there is no checkpoint, none can be read, or another version wrote it.
        """
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), _as_dict(like)
        )
        only_state = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        state, record = self._read(
            which, lambda step: self._manager.restore(step, args=only_state).state
        )
        if not self._read_only and "best" in record:
            for step in self.steps()[KEPT:]:
                if step != record["best"]:
                    self._manager.delete(step)
        return TrainState(**state), record["progress"]

    def restore_model(self, like: dict[str, Any], which: str = "last") -> dict[str, Any]:
        """Returns the `params` and `batch_stats` of a train state as NumPy arrays.

        For networks that are only used. `like` has the structure and the shapes of both. For
        `which`, and for errors, see `restore`.
        """
        return self._read(which, lambda step: _read_arrays(self._state_folder(step), like))[0]

    def _state_folder(self, step: int) -> Path:
        return self._folder / str(step) / "state"

    def _read(self, which: str, read: Callable[[int], Read]) -> tuple[Read, dict[str, Any]]:
        """Returns what `read` makes of a checkpoint, and its record; see `restore`."""
        for _ in range(_READS):
            steps = self.steps()
            try:
                return self._read_first(which, steps, read)
            except InputError:
                # A training that runs meanwhile may have deleted what was to be read.
                self._manager.reload()
                if not self._read_only or self.steps() == steps:
                    raise
        raise InputError(f"{self._folder} changes faster than it can be read: try again")

    def _read_first(self, which: str, steps: list[int], read: Callable):
        if not steps:
            raise InputError(f"{self._folder.parent} holds no checkpoint: train it first")
        if which == "best":
            _, record = self._first_readable(steps, lambda step: None)
            steps = [self._best(record)]
        return self._first_readable(steps, read)

    def _best(self, record: dict[str, Any]) -> int:
        """The step of the best checkpoint. Of early checkpoints, metrics.jsonl says which it is."""
        if "best" in record:
            return record["best"]
        return best_epoch(RunDirectory(self._folder.parent).metrics())["step"]

    def _first_readable(self, steps: list[int], read: Callable[[int], Read]):
        """Returns what `read` makes of the first of `steps` that can be read, and its record."""
        unreadable = {}
        for step in steps:
            result, reason = None, None
            try:
                record = self._record(step)
            except Unreadable as error:
                reason = str(error)
            if not (reason := _of_all_processes(reason)):
                try:
                    result = self._checked(step, read, record)
                except Unreadable as error:
                    reason = str(error)
                reason = _of_all_processes(reason)
            if reason:
                unreadable[step] = reason
                continue
            for lost, reason in unreadable.items():
                _log.warning(
                    "the checkpoint of step %d cannot be read (%s): going back to that of step %d.",
                    *(lost, reason, step),
                )
            self._set_aside(list(unreadable))
            return result, record
        reasons = "; ".join(f"step {step}: {reason}" for step, reason in unreadable.items())
        raise InputError(
            f"{self._folder} holds only damaged checkpoints ({reasons}): bring one back, or move "
            "the directory away to train from the start."
        )

    def _record(self, step: int) -> dict[str, Any]:
        """Returns the JSON object of a checkpoint whose files are as they were written.

        Raises InputError if the checkpoint has another format.
        """
        with _reading():
            check_sums(self._folder / str(step))
            only_progress = ocp.args.Composite(progress=ocp.args.JsonRestore())
            record = self._manager.restore(step, args=only_progress).progress
            if record["format"] != FORMAT:
                raise InputError(
                    f"the checkpoint of step {step} in {self._folder} has format "
                    f"{record['format']}, but this version reads {FORMAT}: use the version of "
                    "densenet_jax that wrote it."
                )
            if (saved := record.get("step", step)) != step:
                raise Unreadable(f"it is the checkpoint of step {saved}")
            return record

    def _checked(self, step: int, read: Callable[[int], Read], record: dict[str, Any]) -> Read:
        """Returns what `read` makes of a checkpoint, if the arrays are those that were saved."""
        with _reading():
            found = read(step)
            expected = record.get("arrays")
            compare(digests(found), expected) if found and expected else None
            return found

    def _check_room(self, arrays: list[jax.Array]) -> None:
        """Orbax would notice too, but its threads then tell of each array."""
        needed = sum(array.nbytes + _FILE_BYTES for array in arrays)
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise OSError(f"{_DISK_FULL}: {needed:,} bytes are needed, {free:,} are free")

    def _seal(self) -> None:
        """Reads a checkpoint back and puts it on disk; called before it gets its name."""
        if jax.process_index() > 0:
            return
        (folder,) = self._folder.glob(f"{self._saving}.*tmp*")
        compare(digests(_read_arrays(folder / "state", self._structure)), self._digests)
        for path in folder.rglob("*"):
            sync(path)
        write_sums(folder)

    def _set_aside(self, steps: list[int]) -> None:
        """Renames what cannot be read, so that its steps can be saved again."""
        if not steps or self._read_only:
            return
        if jax.process_index() == 0:
            for step in steps:
                folder = self._folder / str(step)
                folder.rename(free_name(folder, "damaged"))
            sync(self._folder)
        multihost_utils.sync_global_devices("damaged checkpoints are set aside")
        self._manager.reload()

    @contextlib.contextmanager
    def _telling_of_failure(self):
        try:
            yield
        except jax.errors.JaxRuntimeError:
            raise  # Of the devices, or of another process.
        except Exception as error:
            self._manager.reload()
            kept = (
                f"that of step {self.steps()[0]} is kept" if self.steps() else "there is none yet"
            )
            text = " ".join(str(error).split())
            # TensorStore names all that it was doing before it says why it failed.
            reasons = (reason for known, reason in _REASONS.items() if known in text)
            reason = next(reasons, text[:_REASON_CHARACTERS])
            raise Interrupted(
                f"cannot write a checkpoint to {self._folder} ({reason}); {kept}. Mend that and "
                "give the same command again."
            ) from error


def _wait_for_processes(*, key: str, timeout_ms: int) -> None:
    """Waits until all processes come here; but not after an error, of which they do not know.

    They wait for this process elsewhere. Once it reports its error and ends, they end as well.
    """
    if sys.exc_info()[1] is None:
        ocp.multihost.get_barrier_sync_fn()(key=key, timeout_ms=timeout_ms)


@contextlib.contextmanager
def _reading():
    """Reports whatever reading a damaged checkpoint raises as Unreadable."""
    try:
        yield
    except (Unreadable, InputError, MemoryError, jax.errors.JaxRuntimeError):
        raise
    except OSError as error:
        raise Unreadable(f"{Path(error.filename or '').name} {error.strerror or error}") from error
    except Exception as error:
        raise Unreadable(" ".join(str(error).split())[:_REASON_CHARACTERS]) from error


class _LastAndBest(ocp.checkpoint_managers.PreservationPolicy):
    best: int | None = None

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        last = {info.step for info in checkpoints[-KEPT:]}
        return [info.step in last or info.step == self.best for info in checkpoints]


def _of_all_processes(problem: str | None) -> str | None:
    """Returns the problem of any process, so that all of them make the same choice."""
    if jax.process_count() == 1:
        return problem
    any_has = multihost_utils.process_allgather(np.array(problem is not None)).any()
    return problem or ("another process cannot read it" if any_has else None)


def _read_arrays(folder: Path, like: dict[str, Any]) -> dict[str, Any]:
    """Returns the arrays in a `state` directory as NumPy arrays, in the structure of `like`.

    Raises ValueError if an array of `like` has another shape there.
    """
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
    return ocp.PyTreeCheckpointHandler().restore(
        folder, args=ocp.args.PyTreeRestore(item=like, restore_args=as_numpy, partial_restore=True)
    )


def _as_dict(state: TrainState) -> dict[str, Any]:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
