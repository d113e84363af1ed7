"""Breaks a training run at every file-system call, and checks how the resumed run ends.

    PYTHONPATH=tests:. python tests/train/faults.py states --every 1

WHAT is one of
    states   Kills a fresh or a resumed run at each call and in the middle of each write. Also cuts
             the power of its machine there, which loses everything that was not synced.
    errors   Makes a call fail, once or from then on: no space, an input/output error, or no
             permission.
Then resumes the run from each state that this leaves. A state counts as "ended" if the resumed run
has the metrics, the result, the arrays and the files of an undisturbed run. It counts as "refused"
if the run ends with an error of one sentence, and as "wrong" otherwise.

This script compiles faults.c with gcc; faults.c counts and breaks the calls. One process with one
compiled trainer resumes all states, so that a state takes a fraction of a second. TensorBoard's
files are off, because the thread that writes them runs at other moments each time.
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
COUNT, RECORD, FAIL = range(3)  # The actions of faults.c.
# A call fails once, or it and all later calls fail. Successive calls take the cases in turn.
CASES = [
    (error, is_sticky)
    for error in (errno.EIO, errno.ENOSPC, errno.EACCES)
    for is_sticky in (False, True)
]
SET_ASIDE = (".damaged", ".damaged2")  # Endings of damaged files, which runs keep on purpose.


class End(NamedTuple):
    """The end of a run: "ended", "refused", or what was wrong; and the files that it left."""

    how: str
    metrics: str | None = None
    result: dict | None = None
    arrays: str | None = None
    files: tuple[str, ...] = ()


def build(directory: Path) -> Path:
    """Compiles faults.c; returns the path of the library."""
    library = directory / "faults.so"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*command, "-o", library, SOURCE, "-ldl"], check=True)
    return library


class Laboratory:
    """A compiled trainer that runs and resumes in any directory."""

    def __init__(self, root: Path):
        self.root = root
        library = os.environ.get("LD_PRELOAD")
        self._library = ctypes.CDLL(library) if library else None
        self._config = small.config(RUN)
        self._trainer = Trainer(self._config)
        self._initial = jax.tree.map(np.asarray, self._trainer.initial_state)
        self._trainer.close = lambda: None
        fit_module.Trainer = self._fresh
        fit_module.event_log = lambda directory, step: contextlib.nullcontext(lambda line: None)
        environment = record.environment()
        # `record.environment` starts git, which would slow every run down.
        record.environment = lambda: environment
        self.undisturbed = self.run(root / "undisturbed")
        assert self.undisturbed.how == "ended", self.undisturbed

    def _fresh(self, config) -> Trainer:
        sharding = replicated(self._trainer._mesh)
        state = jax.tree.map(np.array, self._initial)
        self._trainer.initial_state = place(state, sharding)
        return self._trainer

    def broken_run(
        self, directory: Path, action: int, target=0, error=0, is_sticky=False, store=""
    ) -> tuple[End, int]:
        """Runs with faults.c at work in `directory`. Returns the end, and the number of calls."""
        arguments = (action, ctypes.c_long(target), error, is_sticky, str(store).encode())
        self._library.faults_arm(str(directory).encode(), *arguments)
        self._calls = 0
        return self.run(directory), self._calls

    def run(self, directory: Path) -> End:
        """Runs or resumes in `directory`."""
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                fit_module.fit(self._config, directory)
        except (InputError, RunError) as error:
            is_sentence = str(error) and "\n" not in str(error)
            return End("refused" if is_sentence else f"not one sentence: {error}")
        except Exception as error:
            return End(f"{type(error).__name__}: {error}"[:500])
        finally:
            self._calls = self._library.faults_disarm() if self._library else 0
        with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
            state, _ = checkpoints.restore(self._trainer.initial_state)
        leaves = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]
        result = json.loads((directory / "result.json").read_text())
        return End(
            "ended",
            (directory / "metrics.jsonl").read_text(),
            {name: value for name, value in result.items() if "second" not in name},
            hashlib.sha256(b"".join(leaves)).hexdigest(),
            tuple(_names(directory)),
        )

    def judge(self, end: End) -> str:
        """Returns "ended", "refused", or what is wrong."""
        if end.how != "ended":
            return end.how
        for name, found, expected in zip(End._fields, end, self.undisturbed, strict=True):
            if found != expected:
                return f"other {name}: {found} instead of {expected}"
        return "ended"


def _names(directory: Path) -> list[str]:
    """Returns the files of a run directory and the names of its sound checkpoints."""
    found = [*directory.glob("*"), *directory.glob("checkpoints/*")]
    return sorted(str(p.relative_to(directory)) for p in found if not p.name.endswith(SET_ASIDE))


def recorded(laboratory: Laboratory, begin: Path | None, name: str, every: int) -> tuple[Path, int]:
    """Records the state of a run at each `every`-th call, from the run directory `begin` if given.

    Returns the directory of the states and the number of calls.
    """
    directory, store = laboratory.root / name, laboratory.root / f"{name}.store"
    (store / "synced").mkdir(parents=True)
    if begin:
        shutil.copytree(begin, directory)
        for path in (directory, *directory.rglob("*")):  # The copy counts as synced.
            _note_synced(path, store / "synced" / f"{path.stat().st_ino}.000000")
    end, calls = laboratory.broken_run(directory, RECORD, every, store=store)
    assert laboratory.judge(end) == "ended", end
    return store, calls


def _note_synced(path: Path, note: Path) -> None:
    if path.is_file():
        shutil.copyfile(path, note)
    else:
        entries = [(p.stat().st_ino, "d" if p.is_dir() else "f", p.name) for p in path.iterdir()]
        note.write_text("".join(f"{inode} {what} {name}\n" for inode, what, name in entries))


def killed_states(store: Path, directory: Path) -> Iterator[str]:
    """Writes each state of a killed run to `directory`; yields its description."""
    for state in _recorded_states(store):
        _begin(directory, state)
        yield f"call {state.name}"


def _recorded_states(store: Path) -> list[Path]:
    return sorted(path for path in store.iterdir() if path.name.isdecimal())


def powerless_states(store: Path, directory: Path) -> Iterator[str]:
    """Writes each state after a loss of power to `directory`; yields its description.

    In one kind of state, names that were not synced are lost. In the other kind all names survive,
    and files that were not synced are empty, as file systems with a journal leave them.
    """
    synced = collections.defaultdict(list)  # The syncs of each inode, in order.
    for file in sorted((store / "synced").iterdir(), key=lambda file: int(file.suffix[1:])):
        synced[file.stem].append(file)
    for listing in sorted(store.glob("*.inodes")):
        number = int(listing.stem)

        def last(inode, number=number):
            files = [file for file in synced[inode] if int(file.suffix[1:]) < number]
            return files[-1] if files else None

        entries = [line.split(" ", 2) for line in listing.read_text().splitlines()]
        for kind in ("names lost", "names kept"):
            shutil.rmtree(directory, ignore_errors=True)
            if kind == "names kept":
                for inode, what, name in entries:
                    _put(directory / name, what, last(inode))
            elif entries:
                _put_synced(directory, entries[0][0], last)
            yield f"call {number}, {kind}"


def _put(path: Path, what: str, content: Path | None) -> None:
    if what == "d":
        path.mkdir(parents=True, exist_ok=True)
    elif content:
        shutil.copyfile(content, path)
    else:
        path.touch()


def _put_synced(directory: Path, inode: str, last) -> None:
    directory.mkdir(parents=True)
    for line in last(inode).read_text().splitlines() if last(inode) else []:
        inode, what, name = line.split(" ", 2)
        if what == "d":
            _put_synced(directory / name, inode, last)
        else:
            _put(directory / name, what, last(inode))


def key(directory: Path) -> str:
    """Returns a digest of the names and contents of the files in a directory."""
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        content = path.read_bytes() if path.is_file() else b"/"
        digest.update(f"{path.relative_to(directory)} {len(content)} ".encode() + content)
    return digest.hexdigest()


class Counts:
    """Counts how the states ended; resumes each distinct state once."""

    def __init__(self, laboratory: Laboratory):
        self._laboratory, self._seen = laboratory, set()
        self.counts = collections.Counter()
        self._wrong: list[str] = []

    def report(self) -> dict:
        return {**self.counts, "what is wrong": self._wrong}

    def resume(self, directory: Path, what: str) -> None:
        state = key(directory)
        if state not in self._seen:
            self._seen.add(state)
            self.note(self._laboratory.run(directory), what)

    def note(self, end: End, what: str) -> None:
        if self.counts.total() % 100 == 99:
            print(f"at {what}", file=sys.stderr, flush=True)
        verdict = self._laboratory.judge(end)
        is_right = verdict in ("ended", "refused")
        self.counts[verdict if is_right else "wrong"] += 1
        if not is_right:
            self._wrong.append(f"{what}: {verdict}")
            print(self._wrong[-1][:600], file=sys.stderr, flush=True)


def beginnings(laboratory: Laboratory) -> dict[str, Path | None]:
    """Returns the initial run directory of a fresh run, None, and that of a resumed run."""
    fresh, _ = recorded(laboratory, None, "fresh", every=50)
    states = _recorded_states(fresh)
    # This state has checkpoints and is not finished.
    return {"fresh run": None, "resumed run": states[2 * len(states) // 3]}


def try_states(laboratory: Laboratory, every: int) -> dict:
    """Resumes every recorded state of a fresh and of a resumed run."""
    report, directory = {}, laboratory.root / "state"
    for name, begin in beginnings(laboratory).items():
        store, calls = recorded(laboratory, begin, f"{name}, again", every)
        report[name] = {"calls": calls}
        for kind, states in (("killed", killed_states), ("without power", powerless_states)):
            counts = Counts(laboratory)
            for what in states(store, directory):
                counts.resume(directory, f"{name}, {kind}, {what}")
            report[name][kind] = counts.report()
    return report


def try_errors(laboratory: Laboratory, every: int) -> dict:
    """Makes each call of a fresh and of a resumed run fail, and then resumes the run."""
    report, directory = {}, laboratory.root / "state"
    for name, begin in beginnings(laboratory).items():
        counts, after = Counts(laboratory), Counts(laboratory)
        _begin(directory, begin)
        calls = laboratory.broken_run(directory, COUNT)[1]
        for number, (error, is_sticky) in zip(range(1, calls + 1, every), itertools.cycle(CASES)):
            _begin(directory, begin)
            end, _ = laboratory.broken_run(directory, FAIL, number, error, is_sticky)
            what = f"{name}, call {number} {errno.errorcode[error]}{' sticky' * is_sticky}"
            counts.note(end, what)
            if end.how != "ended":
                after.note(laboratory.run(directory), f"{what}, resumed")
        report[name] = {
            "calls": calls,
            "with the error": counts.report(),
            "resumed": after.report(),
        }
    return report


def _begin(directory: Path, begin: Path | None) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    if begin:
        shutil.copytree(begin, directory)


def attack(what: str, every: int) -> dict:
    """Tries all states or errors. Must run in a process that has loaded faults.c."""
    for library in ("absl", "asyncio", "densenet_jax"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    # `states` identifies files by inode, and tmpfs does not use an inode number twice.
    memory = Path("/dev/shm")
    root = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    try:
        laboratory = Laboratory(root)
        return {"states": try_states, "errors": try_errors}[what](laboratory, every)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def start(what: str, every: int) -> dict:
    """Runs `attack` in a separate process; returns its report."""
    with tempfile.TemporaryDirectory() as directory:
        environment = {"LD_PRELOAD": str(build(Path(directory)))}
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
    parser.add_argument("--every", type=int, default=1, help="try only every N-th call")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    report = (attack if args.inside else start)(args.what, args.every)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
