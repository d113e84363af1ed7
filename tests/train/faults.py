"""Breaks a training run at every file-system call, and checks how the resumed run ends.

    PYTHONPATH=tests:. python tests/train/faults.py states --every 1

WHAT is one of
    states   A fresh or a resumed run is killed at a call or in the middle of a write; or its
             machine loses its power there, and with it everything that was not synced.
    errors   A call fails once, or from then on: no space, an input/output error, no permission.
Each state that this leaves is resumed. "ended": with the metrics, the result, the arrays and the
files of an undisturbed run. "refused": with one sentence. Everything else is listed as "wrong".

faults.c, which this compiles with gcc, counts and breaks the calls. All states are resumed in one
process with one compiled trainer, so that a state takes a fraction of a second. TensorBoard's files
are off, because their thread writes at other moments each time.
"""

import argparse
import collections
import contextlib
import ctypes
import errno
import hashlib
import io
import itertools
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import small

from densenet_jax.errors import InputError, RunError
from densenet_jax.train import fit as fit_module
from densenet_jax.train import record
from densenet_jax.train.checkpoint import Checkpoints
from densenet_jax.train.mesh import place, replicated
from densenet_jax.train.trainer import Trainer

SOURCE = Path(__file__).with_name("faults.c")
RUN = small.PLAIN | {
    "epochs": 3,
    "checkpoint_every_epochs": 1,
    "batch_size": 200,
    "data.holdout": 0,
    "model.dropout_rate": 0.2,
}
COUNT, RECORD, FAIL = range(3)  # Actions of faults.c.
# Each fails once, or from then on. The cases take turns along the calls.
CASES = [
    (error, is_sticky)
    for error in (errno.EIO, errno.ENOSPC, errno.EACCES)
    for is_sticky in (False, True)
]
LITTER = (".damaged", ".damaged2")  # Endings of what is set aside, and kept on purpose.


class End(NamedTuple):
    """How a run ended: "ended" or "refused", or else what was wrong; and what it left."""

    how: str
    metrics: str | None = None
    result: dict | None = None
    arrays: str | None = None
    files: tuple[str, ...] = ()


def build(folder: Path) -> Path:
    """Compiles faults.c."""
    library = folder / "faults.so"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*command, "-o", library, SOURCE, "-ldl"], check=True)
    return library


class Laboratory:
    """One compiled trainer, which runs and resumes in any directory."""

    def __init__(self, root: Path):
        self.root = root
        library = os.environ.get("LD_PRELOAD")
        self._library = ctypes.CDLL(library) if library else None
        self._config = small.config(RUN)
        self._trainer = Trainer(self._config)
        self._initial = jax.tree.map(np.asarray, self._trainer.initial_state)
        self._trainer.close = lambda: None
        fit_module.Trainer = self._fresh
        fit_module.event_log = lambda folder, step: contextlib.nullcontext(lambda line: None)
        environment = record.environment()
        record.environment = lambda: environment  # Starting git for each run would take long.
        self.undisturbed = self.run(root / "undisturbed")
        assert self.undisturbed.how == "ended", self.undisturbed

    def _fresh(self, config) -> Trainer:
        sharding = replicated(self._trainer._mesh)
        state = jax.tree.map(np.array, self._initial)
        self._trainer.initial_state = place(state, sharding)
        return self._trainer

    def broken_run(
        self, folder: Path, action: int, target=0, error=0, is_sticky=False, store=""
    ) -> tuple[End, int]:
        """Runs with faults.c at work in `folder`. Returns the end, and the number of calls."""
        arguments = (action, ctypes.c_long(target), error, is_sticky, str(store).encode())
        self._library.faults_arm(str(folder).encode(), *arguments)
        self._calls = 0
        return self.run(folder), self._calls

    def run(self, folder: Path) -> End:
        """Runs or resumes in `folder`."""
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                fit_module.fit(self._config, folder)
        except (InputError, RunError) as error:
            is_sentence = str(error) and "\n" not in str(error)
            return End("refused" if is_sentence else f"not one sentence: {error}")
        except Exception as error:
            return End(f"{type(error).__name__}: {error}"[:500])
        finally:
            self._calls = self._library.faults_disarm() if self._library else 0
        with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
            state, _ = checkpoints.restore(self._trainer.initial_state)
        leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]
        result = json.loads((folder / "result.json").read_text())
        return End(
            "ended",
            (folder / "metrics.jsonl").read_text(),
            {name: value for name, value in result.items() if "second" not in name},
            hashlib.sha256(b"".join(leaves)).hexdigest(),
            tuple(_names(folder)),
        )

    def judge(self, end: End) -> str:
        """Returns "ended", "refused", or what is wrong."""
        if end.how != "ended":
            return end.how
        for name, found, expected in zip(End._fields, end, self.undisturbed, strict=True):
            if found != expected:
                return f"other {name}: {found} instead of {expected}"
        return "ended"


def _names(folder: Path) -> list[str]:
    """What lies in a run directory, without what is in sound checkpoints or was set aside."""
    found = [*folder.glob("*"), *folder.glob("checkpoints/*")]
    return sorted(str(p.relative_to(folder)) for p in found if not p.name.endswith(LITTER))


def recorded(laboratory: Laboratory, begin: Path | None, name: str, every: int) -> tuple[Path, int]:
    """Records every so many calls of a run, from the run directory `begin` if given.

    Returns the store and the number of calls.
    """
    folder, store = laboratory.root / name, laboratory.root / f"{name}.store"
    (store / "synced").mkdir(parents=True)
    if begin:
        shutil.copytree(begin, folder)
        for path in (folder, *folder.rglob("*")):  # All of it is on disk.
            _note_synced(path, store / "synced" / f"{path.stat().st_ino}.000000")
    end, calls = laboratory.broken_run(folder, RECORD, every, store=store)
    assert laboratory.judge(end) == "ended", end
    return store, calls


def _note_synced(path: Path, note: Path) -> None:
    if path.is_file():
        shutil.copyfile(path, note)
    else:
        entries = [(p.stat().st_ino, "d" if p.is_dir() else "f", p.name) for p in path.iterdir()]
        note.write_text("".join(f"{inode} {what} {name}\n" for inode, what, name in entries))


def killed_states(store: Path, folder: Path) -> Iterator[str]:
    """Puts each state of a killed run into `folder`; yields its description."""
    for state in _recorded_states(store):
        _begin(folder, state)
        yield f"call {state.name}"


def _recorded_states(store: Path) -> list[Path]:
    return sorted(path for path in store.iterdir() if path.name.isdecimal())


def powerless_states(store: Path, folder: Path) -> Iterator[str]:
    """Puts each state after a loss of power into `folder`; yields its description.

    Either the names that were not synced are lost as well, or all names survive, and files that
    were not synced are empty, as file systems with a journal leave them.
    """
    synced = collections.defaultdict(list)  # The syncs of each inode, in their order.
    for file in sorted((store / "synced").iterdir(), key=lambda file: int(file.suffix[1:])):
        synced[file.stem].append(file)
    for listing in sorted(store.glob("*.inodes")):
        number = int(listing.stem)

        def last(inode, number=number):
            files = [file for file in synced[inode] if int(file.suffix[1:]) < number]
            return files[-1] if files else None

        entries = [line.split(" ", 2) for line in listing.read_text().splitlines()]
        for kind in ("names lost", "names kept"):
            shutil.rmtree(folder, ignore_errors=True)
            if kind == "names kept":
                for inode, what, name in entries:
                    _put(folder / name, what, last(inode))
            elif entries:
                _put_synced(folder, entries[0][0], last)
            yield f"call {number}, {kind}"


def _put(path: Path, what: str, content: Path | None) -> None:
    if what == "d":
        path.mkdir(parents=True, exist_ok=True)
    elif content:
        shutil.copyfile(content, path)
    else:
        path.touch()


def _put_synced(folder: Path, inode: str, last) -> None:
    folder.mkdir(parents=True)
    for line in last(inode).read_text().splitlines() if last(inode) else []:
        inode, what, name = line.split(" ", 2)
        if what == "d":
            _put_synced(folder / name, inode, last)
        else:
            _put(folder / name, what, last(inode))


def key(folder: Path) -> str:
    """The same for directories with the same content."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        content = path.read_bytes() if path.is_file() else b"/"
        digest.update(f"{path.relative_to(folder)} {len(content)} ".encode() + content)
    return digest.hexdigest()


class Counts:
    """How the states ended, by kind; each distinct state is tried once."""

    def __init__(self, laboratory: Laboratory):
        self._laboratory, self._seen = laboratory, set()
        self.counts = collections.Counter()
        self._wrong: list[str] = []

    def report(self) -> dict:
        return {**self.counts, "what is wrong": self._wrong}

    def resume(self, folder: Path, what: str) -> None:
        state = key(folder)
        if state not in self._seen:
            self._seen.add(state)
            self.note(self._laboratory.run(folder), what)

    def note(self, end: End, what: str) -> None:
        if self.counts.total() % 100 == 99:
            print(f"at {what}", file=sys.stderr, flush=True)
        verdict = self._laboratory.judge(end)
        is_right = verdict in ("ended", "refused")
        self.counts[verdict if is_right else "wrong"] += 1
        if not is_right:
            self._wrong.append(f"{what}: {verdict}")
            print(self._wrong[-1][:600], file=sys.stderr, flush=True)


def middle(store: Path, calls: int) -> Path:
    """A state of a killed run that has checkpoints and is not finished."""
    return store / f"{2 * calls // 3:06d}"


def beginnings(laboratory: Laboratory) -> dict[str, Path | None]:
    """Returns what a fresh and a resumed run begin with: nothing, and a killed run."""
    fresh, _ = recorded(laboratory, None, "fresh", every=50)
    states = _recorded_states(fresh)
    # With checkpoints, and not finished.
    return {"fresh run": None, "resumed run": states[2 * len(states) // 3]}


def try_states(laboratory: Laboratory, every: int) -> dict:
    """Resumes the states of a fresh and of a resumed run."""
    report, folder = {}, laboratory.root / "state"
    for name, begin in beginnings(laboratory).items():
        store, calls = recorded(laboratory, begin, f"{name}, again", every)
        report[name] = {"calls": calls}
        for kind, states in (("killed", killed_states), ("without power", powerless_states)):
            counts = Counts(laboratory)
            for what in states(store, folder):
                counts.resume(folder, f"{name}, {kind}, {what}")
            report[name][kind] = counts.report()
    return report


def try_errors(laboratory: Laboratory, every: int) -> dict:
    """Lets each call of a fresh and of a resumed run fail, and then resumes the run."""
    report, folder = {}, laboratory.root / "state"
    for name, begin in beginnings(laboratory).items():
        counts, after = Counts(laboratory), Counts(laboratory)
        _begin(folder, begin)
        calls = laboratory.broken_run(folder, COUNT)[1]
        for number, (error, is_sticky) in zip(range(1, calls + 1, every), itertools.cycle(CASES)):
            _begin(folder, begin)
            end, _ = laboratory.broken_run(folder, FAIL, number, error, is_sticky)
            what = f"{name}, call {number} {errno.errorcode[error]}{' sticky' * is_sticky}"
            counts.note(end, what)
            if end.how != "ended":
                after.note(laboratory.run(folder), f"{what}, resumed")
        report[name] = {
            "calls": calls,
            "with the error": counts.report(),
            "resumed": after.report(),
        }
    return report


def _begin(folder: Path, begin: Path | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if begin:
        shutil.copytree(begin, folder)


def attack(what: str, every: int) -> dict:
    """Runs in a process of its own, with faults.c loaded."""
    for library in ("absl", "asyncio", "densenet_jax"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    memory = Path("/dev/shm")  # Its inode numbers are not used again, on which `states` relies.
    root = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    try:
        laboratory = Laboratory(root)
        return {"states": try_states, "errors": try_errors}[what](laboratory, every)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def start(what: str, every: int) -> dict:
    """Starts `attack` in a process of its own; returns its report."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {"LD_PRELOAD": str(build(Path(folder)))}
        process = small.start(__file__, what, "--every", every, "--inside", **environment)
        output, errors = process.communicate()
        if process.returncode:
            raise RuntimeError(errors)
        return json.loads(output)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("states", "errors"))
    parser.add_argument("--every", type=int, default=1, help="try only each N-th call")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    report = (attack if args.inside else start)(args.what, args.every)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
