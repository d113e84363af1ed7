"""One run at a time writes to a run directory."""

import errno
import fcntl
import json
import subprocess
import sys

import pytest
import small
from two_starts import race

from densenet_jax.errors import Interrupted
from densenet_jax.train import lock
from densenet_jax.train.fit import fit
from densenet_jax.train.lock import RunLock, is_locked
from launch import command, train

# Holds a directory until it is killed.
HOLD = """
import sys, time
from pathlib import Path
from densenet_jax.train.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(1000)
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(lock, "_WAIT_SECONDS", 0.2)


@pytest.fixture
def holder(tmp_path):
    """A process that holds the directory `run`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "run"], cwd=small.ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_is_refused_and_told_who_is_there(tmp_path, holder, capsys):
    folder = tmp_path / "run"
    assert is_locked(folder / lock.NAME)
    before = small.snapshot(folder)
    flags = ["--config", str(small.QUICKSTART), "--compile_cache=off", "--workdir", str(folder)]
    assert command.run(train.main, [*flags, *small.flags()]) == 3
    output, errors = capsys.readouterr()
    assert f"{folder} is in use by another run (process {holder.pid} on " in errors
    assert errors.count("\n") == 1 and "compiled" not in output
    assert small.snapshot(folder) == before


def test_a_killed_process_frees_the_directory(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert not is_locked(tmp_path / "run" / lock.NAME)
    with RunLock(tmp_path / "run"):
        assert is_locked(tmp_path / "run" / lock.NAME)
    assert not (tmp_path / "run").exists(), "nothing was written"


def test_an_empty_directory_is_removed_again(tmp_path):
    """As after an error that comes before the first file, such as data that are missing."""
    with RunLock(tmp_path / "a" / "run"):
        pass
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_the_newest_run_wins_where_nothing_can_be_locked(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with RunLock(tmp_path / "run") as older:
        older.check()
        assert "cannot be locked (No locks available)" in caplog.text
        with RunLock(tmp_path / "run") as newer:
            newer.check()
            with pytest.raises(Interrupted, match=r"another run has taken .* writes nothing more"):
                older.check()


def test_a_run_stops_when_another_one_has_taken_its_directory(tmp_path, monkeypatch):
    """The first line of metrics is written by the thief."""
    append, folder = lock.RunLock.check, tmp_path / "run"

    def steal(held):
        holder = json.loads((folder / lock.NAME).read_text())
        (folder / lock.NAME).write_text(json.dumps(holder | {"token": "another", "process": 7}))
        append(held)

    monkeypatch.setattr(lock.RunLock, "check", steal)
    with pytest.raises(Interrupted, match=r"another run has taken .*process 7 on"):
        fit(small.config(small.PLAIN), folder)
    assert (folder / "metrics.jsonl").read_bytes() == b""


@pytest.mark.parametrize("seeds", [3, pytest.param(200, marks=pytest.mark.slow)])
def test_two_starts_at_random_moments(seeds):
    report = race(seeds)
    assert report["what is wrong"] == []
    assert report["ended and refused"] >= 1
