"""Checkpoints of a run, through Orbax.

    checkpoints/STEP/state/       the train state: nested dicts of arrays (OCDBT)
    checkpoints/STEP/progress/    a JSON object: `format`, `progress`, `step`, `best` (the step of
                                  the best checkpoint) and `arrays` (the SHA-256 of each array)
    checkpoints/STEP/SHA256SUMS   checksums of the files above, for `sha256sum --check`
    checkpoints/STEP.damaged/     a checkpoint that could not be read, and was set aside

STEP is the number of completed training steps. A checkpoint is written under another name, read
back, synced to disk and then renamed. It holds global arrays: any number of devices and processes
can resume from it. The format stays the same while `FORMAT` does. Early checkpoints lack `step`,
`best` and `arrays`.
"""

import contextlib
import dataclasses
import errno
import logging
import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterator
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
    check_checksums,
    compare,
    digests,
    write_checksums,
)
from densenet_jax.train.orbax_private import unfinished_directory, wait_for_processes
from densenet_jax.train.record import RunDirectory, best_epoch, free_name
from densenet_jax.train.step import TrainState

FORMAT = 1
KEPT = 2  # Number of newest checkpoints that are kept beside the best one.

_FILE_BYTES = 4096  # Most bytes that the file of an array takes beside its numbers.
_DISK_FULL = "the disk is full"
_REASONS = {os.strerror(errno.ENOSPC): _DISK_FULL} | {
    text: text for text in map(os.strerror, (errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO))
}
_REASON_CHARACTERS = 300  # Most characters that are shown of an exception's message.
# A reader lists the checkpoints so often, because a running training may delete what it reads.
_READS = 20

_log = logging.getLogger(__name__)

Read = TypeVar("Read")


class Checkpoints:
    """The checkpoints in a directory; saves in the background. A context manager.

    Args:
      directory: created if missing.
      read_only: leaves the directory unchanged; another process may be writing to it.
      snapshots: steps whose checkpoints are never deleted.
    """

    def __init__(self, directory: Path, read_only: bool = False, snapshots: Collection[int] = ()):
        self._directory, self._read_only = directory.absolute(), read_only
        self.snapshots = frozenset(snapshots)
        self._policy = _Kept(self.snapshots)
        if not read_only and jax.process_index() == 0:
            self._directory.mkdir(parents=True, exist_ok=True)
            sync(self._directory.parent)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy,
            cleanup_tmp_directories=not read_only,
            lightweight_initialize=True,  # Reads no metadata, which may be damaged as well.
            read_only=read_only,
            async_options=ocp.AsyncOptions(
                post_finalization_callback=self._seal,
                barrier_sync_fn=_wait_unless_failing,
                # Orbax measures the time of day, which may be changed meanwhile.
                timeout_secs=10**7,
                create_directories_asynchronously=False,
            ),
        )
        self._manager = ocp.CheckpointManager(self._directory, options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *exception) -> None:
        if kind is None:
            self.wait()
            self._manager.close()
        elif jax.process_count() == 1:  # With several, another process may be dead.
            with contextlib.suppress(Interrupted):
                self.wait()

    def steps(self) -> list[int]:
        """Returns the steps that have a checkpoint, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, state: TrainState, progress: dict[str, Any], best: int | None = None) -> None:
        """Starts saving; returns as soon as `state` may be donated.

        Args:
          state: the train state, at least one step after the last saved one.
          progress: values that JSON can hold.
          best: step of the best checkpoint, which is kept beside the newest ones.

        Raises:
          Interrupted: this checkpoint, or the previous one, which was written in the background,
            cannot be written. Complete checkpoints are kept.
        """
        self.wait()
        self._policy.best = best
        self._saving = int(state.step)
        arrays = _as_dict(state)
        with self._failure_reported():
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
                raise RuntimeError(f"Orbax skips step {self._saving} after {self.steps()}")

    def wait(self) -> None:
        """Waits until all checkpoints are on disk. Raises Interrupted if one cannot be written."""
        with self._failure_reported():
            self._manager.wait_until_finished()
            if not self._read_only and jax.process_index() == 0:
                sync(self._directory)  # Stores the name of the last checkpoint.

    def restore(
        self, like: TrainState | Callable[[int], TrainState], which: str | int = "last"
    ) -> tuple[TrainState, dict[str, Any]]:
        """Returns a train state, with the shapes, types and shardings of `like`, and its progress.

        If the last checkpoint cannot be read, reports it, sets it aside, and reads the previous
        one. Removes older checkpoints whose deletion was interrupted.

        Args:
          like: a train state, or a function from a step to the train state at that step.
          which: "last"; "best": the best checkpoint according to the last one; or a step.

        Raises:
          InputError: the checkpoint does not exist or cannot be read, or another version wrote it.
        """

        def read(step: int) -> dict[str, Any]:
            target = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
                _as_dict(like(step) if callable(like) else like),
            )
            only_state = ocp.args.Composite(state=ocp.args.StandardRestore(target))
            return self._manager.restore(step, args=only_state).state

        state, record = self._read(which, read)
        if which == "last" and not self._read_only and "best" in record:
            for step in self.steps()[KEPT:]:
                if step != record["best"] and step not in self.snapshots:
                    self._manager.delete(step)
        return TrainState(**state), record["progress"]

    def restore_model(self, like: dict[str, Any], which: str = "last") -> dict[str, Any]:
        """Returns the `params` and `batch_stats` of a train state as NumPy arrays.

        Serves networks that are not trained further. `like` has the structure and the shapes of
        both. For `which`, and for errors, see `restore`.
        """
        path = self._directory
        return self._read(which, lambda step: _read_arrays(path / str(step) / "state", like))[0]

    def _read(self, which: str | int, read: Callable[[int], Read]) -> tuple[Read, dict[str, Any]]:
        """Returns the result of `read` for a checkpoint, and its record; see `restore`."""
        for _ in range(_READS):
            steps = self.steps()
            try:
                return self._read_first(which, steps, read)
            except InputError:
                # A running training may have deleted the checkpoint meanwhile.
                self._manager.reload()
                if not self._read_only or self.steps() == steps:
                    raise
        raise InputError(f"{self._directory} changes faster than it can be read: try again")

    def _read_first(self, which: str | int, steps: list[int], read: Callable):
        if not steps:
            raise InputError(f"{self._directory.parent} holds no checkpoint: train it first")
        if which == "best":
            _, record = self._first_readable(steps, lambda step: None)
            steps = [self._best(record)]
        elif which != "last":
            if which not in steps:
                raise InputError(
                    f"{self._directory} has no checkpoint of step {which}: train the run to its "
                    "end, or restore that checkpoint from a backup"
                )
            steps = [int(which)]
        return self._first_readable(steps, read)

    def _best(self, record: dict[str, Any]) -> int:
        """Returns the step of the best checkpoint; early checkpoints need metrics.jsonl for it.

        Raises InputError if there was no evaluation.
        """
        best = record.get("best")
        if "best" not in record:
            line = best_epoch(RunDirectory(self._directory.parent).metrics())
            best = line and line["step"]
        if best is None:
            raise InputError(
                f"{self._directory.parent} has no best checkpoint, because no epoch was "
                "evaluated: use the last one"
            )
        return best

    def _first_readable(self, steps: list[int], read: Callable[[int], Read]):
        """Returns the result of `read` for the first readable one of `steps`, and its record."""
        unreadable: dict[int, str] = {}
        for step in steps:
            result, record, reason = None, {}, None
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
                    "the checkpoint of step %d cannot be read (%s): using step %d",
                    *(lost, reason, step),
                )
            self._set_aside(list(unreadable))
            return result, record
        reasons = "; ".join(f"step {step}: {reason}" for step, reason in unreadable.items())
        raise InputError(
            f"{self._directory} holds only damaged checkpoints ({reasons}): restore one from a "
            "backup, or move the directory away to train from the start"
        )

    def _record(self, step: int) -> dict[str, Any]:
        """Returns the JSON object of a checkpoint, after comparing its files with their checksums.

        Raises InputError if the checkpoint has another format.
        """
        with _damage_reported():
            check_checksums(self._directory / str(step))
            only_progress = ocp.args.Composite(progress=ocp.args.JsonRestore())
            record = self._manager.restore(step, args=only_progress).progress
            if record["format"] != FORMAT:
                raise InputError(
                    f"the checkpoint of step {step} in {self._directory} has format "
                    f"{record['format']}, but this version reads {FORMAT}: use the version of "
                    "densenet_jax that wrote it"
                )
            if (saved := record.get("step", step)) != step:
                raise Unreadable(f"it is the checkpoint of step {saved}")
            return record

    def _checked(self, step: int, read: Callable[[int], Read], record: dict[str, Any]) -> Read:
        """Returns the result of `read`, after comparing its arrays with the saved digests."""
        with _damage_reported():
            found = read(step)
            expected = record.get("arrays")
            if found and expected:
                compare(digests(found), expected)
            return found

    def _check_room(self, arrays: list[jax.Array]) -> None:
        """Raises OSError for a full disk. Orbax would print an error for each array."""
        needed = sum(array.nbytes + _FILE_BYTES for array in arrays)
        free = shutil.disk_usage(self._directory).free
        if free < needed:
            raise OSError(f"{_DISK_FULL}: {needed:,} bytes are needed, {free:,} are free")

    def _seal(self) -> None:
        """Reads a checkpoint back and syncs it to disk, before Orbax renames it."""
        if jax.process_index() > 0:
            return
        unfinished = unfinished_directory(self._directory, self._saving)
        compare(digests(_read_arrays(unfinished / "state", self._structure)), self._digests)
        for path in unfinished.rglob("*"):
            sync(path)
        write_checksums(unfinished)

    def _set_aside(self, steps: list[int]) -> None:
        """Renames unreadable checkpoints, so that their steps can be saved again."""
        if not steps or self._read_only:
            return
        if jax.process_index() == 0:
            for step in steps:
                damaged = self._directory / str(step)
                damaged.rename(free_name(damaged, "damaged"))
            sync(self._directory)
        multihost_utils.sync_global_devices("damaged checkpoints are set aside")
        self._manager.reload()

    @contextlib.contextmanager
    def _failure_reported(self) -> Iterator[None]:
        """Raises Interrupted for any exception of a save."""
        try:
            yield
        except jax.errors.JaxRuntimeError:
            raise  # A device or another process failed.
        except Exception as error:
            self._manager.reload()
            steps = self.steps()
            kept = f"the checkpoint of step {steps[0]} is kept" if steps else "there is none yet"
            text = " ".join(str(error).split())
            # TensorStore lists its operations before it names the reason.
            reasons = (reason for known, reason in _REASONS.items() if known in text)
            reason = next(reasons, text[:_REASON_CHARACTERS])
            raise Interrupted(
                f"cannot write a checkpoint to {self._directory} ({reason}); {kept}: fix the "
                "cause, then run the same command again to resume"
            ) from error


def _wait_unless_failing(*, key: str, timeout_ms: int) -> None:
    """Waits for all processes, unless this one is handling an error.

    The other processes do not know of the error and wait elsewhere. They end once this process has
    reported its error and ended.
    """
    if sys.exc_info()[1] is None:
        wait_for_processes(key, timeout_ms)


@contextlib.contextmanager
def _damage_reported() -> Iterator[None]:
    """Raises Unreadable for any exception that a damaged checkpoint causes."""
    try:
        yield
    except (Unreadable, InputError, MemoryError, jax.errors.JaxRuntimeError):
        raise
    except OSError as error:
        raise Unreadable(f"{Path(error.filename or '').name} {error.strerror or error}") from error
    except Exception as error:
        raise Unreadable(" ".join(str(error).split())[:_REASON_CHARACTERS]) from error


@dataclasses.dataclass
class _Kept(ocp.checkpoint_managers.PreservationPolicy):
    """A policy that keeps the newest checkpoints, the best one and the snapshots."""

    snapshots: frozenset[int]
    best: int | None = None

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        last = {info.step for info in checkpoints[-KEPT:]}
        kept = last | self.snapshots | {self.best}
        return [info.step in kept for info in checkpoints]


def _of_all_processes(problem: str | None) -> str | None:
    """Returns the problem of any process, so that all processes make the same choice."""
    if jax.process_count() == 1:
        return problem
    any_has = multihost_utils.process_allgather(np.array(problem is not None)).any()
    return problem or ("another process cannot read it" if any_has else None)


def _read_arrays(path: Path, like: dict[str, Any]) -> dict[str, Any]:
    """Returns the arrays in a `state` directory as NumPy arrays, in the structure of `like`.

    Raises ValueError if an array of `like` has another shape there.
    """
    as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
    return ocp.PyTreeCheckpointHandler().restore(
        path, args=ocp.args.PyTreeRestore(item=like, restore_args=as_numpy, partial_restore=True)
    )


def _as_dict(state: TrainState) -> dict[str, Any]:
    """Returns the fields of `state` by name, as early checkpoints have them, without None."""
    fields = ((field.name, getattr(state, field.name)) for field in dataclasses.fields(state))
    return {name: value for name, value in fields if value is not None}
