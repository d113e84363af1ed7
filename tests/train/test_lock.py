"""Only one run at a time writes to a run directory."""

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

# Holds the lock of a directory until it is killed.
HOLD = """
import sys, time
from pathlib import Path
from densenet_jax.train.lock import RunLock
with RunLock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(1000)
"""


@pytest.fixture(autouse=True)
def short_wait(monkeypatch):
    """Shortens the wait for a lock."""
    monkeypatch.setattr(lock, "_WAIT_SECONDS", 0.2)


@pytest.fixture
def holder(tmp_path):
    """Yields a process that holds the lock of the directory `run`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "run"], cwd=small.ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_is_refused_and_the_first_process_named(tmp_path, holder, capsys):
    directory = tmp_path / "run"
    assert is_locked(directory / lock.NAME)
    before = small.snapshot(directory)
    flags = ["--config", str(small.QUICKSTART), "--compile_cache=off", "--workdir", str(directory)]
    assert command.run(train.main, [*flags, *small.flags()]) == 3
    output, errors = capsys.readouterr()
    assert f"{directory} is in use by another run (process {holder.pid} on " in errors
    assert errors.count("\n") == 1 and "compiled" not in output
    assert small.snapshot(directory) == before


def test_a_killed_process_frees_the_directory(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert not is_locked(tmp_path / "run" / lock.NAME)
    with RunLock(tmp_path / "run"):
        assert is_locked(tmp_path / "run" / lock.NAME)
    assert not (tmp_path / "run").exists(), "nothing was written"


def test_an_empty_directory_is_removed_again(tmp_path):
    """An error before the first file, such as missing data, leaves an empty directory."""
    with RunLock(tmp_path / "a" / "run"):
        pass
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_the_newest_run_continues_if_files_cannot_be_locked(tmp_path, monkeypatch, caplog):
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


def test_a_run_stops_if_another_run_takes_its_directory(tmp_path, monkeypatch):
    """Another run takes the directory before the first line of metrics is written."""
    check, directory = lock.RunLock.check, tmp_path / "run"

    def take_and_check(held):
        holder = json.loads((directory / lock.NAME).read_text())
        (directory / lock.NAME).write_text(json.dumps(holder | {"token": "another", "process": 7}))
        check(held)

    monkeypatch.setattr(lock.RunLock, "check", take_and_check)
    with pytest.raises(Interrupted, match=r"another run has taken .*process 7 on"):
        fit(small.config(small.PLAIN), directory)
    assert (directory / "metrics.jsonl").read_bytes() == b""


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 200])
def test_exactly_one_of_two_simultaneous_runs_trains(seeds):
    report = race(seeds)
    assert report["what is wrong"] == []
    assert report["ended and refused"] >= 1
