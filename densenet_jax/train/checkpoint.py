"""Checkpoints of a run, through Orbax.

    checkpoints/STEP/state/       the train state: nested dicts of arrays (OCDBT)
    checkpoints/STEP/progress/    a JSON object: `format` and `progress`
    checkpoints/STEP/SHA256SUMS   of the files in those two, as `sha256sum --check` reads it
    checkpoints/STEP.damaged/     one that does not fit its sums, and was passed over

STEP is the number of steps trained. A checkpoint is written under another name, and renamed when it
is whole. It holds global arrays: any number of devices and processes can go on from it. All of this
stays as it is for as long as `FORMAT` does.
"""

import contextlib
import dataclasses
import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from densenet_jax.errors import InputError, Interrupted
from densenet_jax.train.step import TrainState

FORMAT = 1
KEPT = 2  # The last ones, beside the best.
SUMS = "SHA256SUMS"

_FILE_BYTES = 4096  # What an array takes beside its numbers, at most.
_DISK_FULL = "the disk is full"

_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints in a folder; saves in the background. A context manager.

    Args:
      folder: made if missing.
      read_only: leave the folder as it is; another process may be writing to it.
    """

    def __init__(self, folder: Path, read_only: bool = False):
        self._folder, self._read_only = folder.absolute(), read_only
        self._policy = _LastAndBest()
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy,
            cleanup_tmp_directories=not read_only,
            lightweight_initialize=True,  # Metadata may be damaged as well.
            read_only=read_only,
            async_options=ocp.AsyncOptions(
                post_finalization_callback=self._write_sums,
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
        """Those that have a checkpoint, the newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def save(self, state: TrainState, progress: dict[str, Any], best: int | None = None) -> None:
        """Starts saving; returns as soon as `state` may be donated.

        Args:
          state: the train state, at least one step after what was saved before.
          progress: what JSON can hold.
          best: the step whose checkpoint is to be kept beside the last ones.

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
            self._manager.save(
                self._saving,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(arrays),
                    progress=ocp.args.JsonSave({"format": FORMAT, "progress": progress}),
                ),
            )

    def wait(self) -> None:
        """Returns when all that was saved is on disk. Raises Interrupted if it cannot be."""
        with self._telling_of_failure():
            self._manager.wait_until_finished()

    def restore(
        self, like: TrainState, step: int | None = None
    ) -> tuple[TrainState, dict[str, Any]]:
        """A train state, with the shapes, types and shardings of `like`, and its progress.

        Of the newest checkpoint, or of that of `step`. If the newest is damaged, this is reported,
        it is set aside, and the one before is taken.

        Raises:
          InputError: there is none, it is damaged, all are, or another version wrote it.
        """
        return self._read(self._whole(step), like)

    def restore_model(self, like: dict[str, Any], step: int | None = None) -> dict[str, Any]:
        """The `params` and `batch_stats` of a train state, NumPy arrays in the shape of `like`.

        For networks that are only used. Of which checkpoint, and errors: see `restore`.
        """
        step = self._whole(step)
        self._progress(step)  # Checks the format.
        folder = self._folder / str(step) / "state"
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like)
            return reader.restore(
                folder,
                args=ocp.args.PyTreeRestore(item=like, restore_args=as_numpy, partial_restore=True),
            )

    def _whole(self, step: int | None) -> int:
        """The step of the checkpoint that `restore` takes."""
        steps = self.steps() if step is None else [step]
        if not set(steps) & set(self.steps()):
            which = "" if step is None else f" of step {step}"
            raise InputError(f"{self._folder.parent} holds no checkpoint{which}.")
        damaged = {}
        for candidate in steps:
            if reason := _damage(self._folder / str(candidate)):
                damaged[candidate] = reason
                continue
            for lost, reason in damaged.items():
                _log.warning(
                    "the checkpoint of step %d is damaged (%s): going back to that of step %d.",
                    *(lost, reason, candidate),
                )
            self._set_aside(list(damaged))
            return candidate
        reasons = "; ".join(f"step {lost}: {reason}" for lost, reason in damaged.items())
        raise InputError(
            f"{self._folder} holds only damaged checkpoints ({reasons}): bring one back, or move "
            "the folder away to train from the start."
        )

    def _read(self, step: int, like: TrainState) -> tuple[TrainState, dict[str, Any]]:
        progress = self._progress(step)
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), _as_dict(like)
        )
        only_state = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        return TrainState(**self._manager.restore(step, args=only_state).state), progress

    def _progress(self, step: int) -> dict[str, Any]:
        """Raises InputError if the checkpoint has another format."""
        only_progress = ocp.args.Composite(progress=ocp.args.JsonRestore())
        record = self._manager.restore(step, args=only_progress).progress
        if record["format"] != FORMAT:
            raise InputError(
                f"the checkpoint of step {step} in {self._folder} has format {record['format']}, "
                f"but this version reads {FORMAT}: use the version of densenet_jax that wrote it."
            )
        return record["progress"]

    def _check_room(self, arrays: list[jax.Array]) -> None:
        """Orbax would notice too, but its threads then tell of each array."""
        needed = sum(array.nbytes + _FILE_BYTES for array in arrays)
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise OSError(f"{_DISK_FULL}: {needed:,} bytes are needed, {free:,} are free")

    def _write_sums(self) -> None:
        """Called when all files of a checkpoint are written, before it gets its name."""
        if jax.process_index() == 0:
            (folder,) = self._folder.glob(f"{self._saving}.*tmp*")
            lines = [f"{_sha256(file)}  {file.relative_to(folder)}\n" for file in _content(folder)]
            (folder / SUMS).write_text("".join(lines))

    def _set_aside(self, steps: list[int]) -> None:
        """Renames what is damaged, so that its steps can be saved again."""
        if not steps or self._read_only:
            return
        if jax.process_index() == 0:
            for step in steps:
                names = (f"{step}.damaged{suffix}" for suffix in ("", *range(2, 1000)))
                free = next(name for name in names if not (self._folder / name).exists())
                (self._folder / str(step)).rename(self._folder / free)
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
            reason = " ".join(str(error).split())
            reason = _DISK_FULL if "No space left" in reason else reason[:300]
            raise Interrupted(
                f"cannot write a checkpoint to {self._folder} ({reason}); {kept}. Mend that and "
                "give the same command again."
            ) from error


class _LastAndBest(ocp.checkpoint_managers.PreservationPolicy):
    best: int | None = None

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        last = {info.step for info in checkpoints[-KEPT:]}
        return [info.step in last or info.step == self.best for info in checkpoints]


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None if it is as it was written."""
    try:
        lines = (folder / SUMS).read_text(errors="replace").splitlines()
        expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        found = {str(file.relative_to(folder)): _sha256(file) for file in _content(folder)}
    except FileNotFoundError as error:
        return f"{Path(error.filename).relative_to(folder)} is missing"
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            return f"{name} is {'changed' if name in found else 'missing'}"
    return None


def _content(folder: Path) -> list[Path]:
    """The files of both items of a checkpoint."""
    return sorted(file for file in folder.glob("*/**/*") if file.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _as_dict(state: TrainState) -> dict[str, Any]:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
