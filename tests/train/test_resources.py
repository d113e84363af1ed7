"""Machines that run short: of disk, of memory, of the right to write, of a steady clock."""

import itertools
import re
import subprocess
import time

import pytest
import small

from densenet_jax.train.fit import fit
from densenet_jax.train.record import RunDirectory
from launch import command, train

# Goes on with little more memory than it has when it begins.
POOR_RUN = """
import resource, sys
import jax, small
from densenet_jax.train.fit import fit
from launch import command

def main(argv):
    process.configure()
    jax.numpy.ones(3).block_until_ready()
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * resource.getpagesize() + 3 * 2**30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    wide = {"model.growth_rate": 256, "model.bottleneck": 0, "batch_size": 1400}
    fit(small.config(small.PLAIN | wide), sys.argv[1])

sys.exit(command.run(main))
"""


@pytest.fixture
def disk(tmp_path):
    """A function that makes a file system of a size, and mounts it on the folder that it gives."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting is not allowed here")
        return folder

    yield mount
    subprocess.run(["umount", folder], capture_output=True)


def end_of(process):
    output, errors = process.communicate(timeout=300)
    assert "Traceback" not in errors
    return process.returncode, output, errors


def test_a_full_disk(disk, tmp_path):
    """It ends the run, which goes on as if it had not been once there is room."""
    changes = small.PLAIN | {"checkpoint_every_epochs": 1}
    folder = disk("size=220k") / "run"
    status, _, errors = end_of(small.start_train(folder, *small.flags(changes)))
    assert status == 3 and errors.count("\n") == 1
    assert re.search(r"the disk is full.*that of step \d+ is kept", errors)
    disk("remount,size=10m")
    fit(small.config(changes), folder)
    fit(small.config(changes), tmp_path / "other")
    metrics = [(path / "metrics.jsonl").read_bytes() for path in (folder, tmp_path / "other")]
    assert metrics[0] == metrics[1]


def test_a_disk_that_cannot_be_written_to(disk, capsys):
    folder = disk("ro")
    argv = ["--config", str(small.QUICKSTART), "--workdir", str(folder), "--compile_cache=off"]
    assert command.run(train.main, argv) == 2
    output, errors = capsys.readouterr()
    assert errors == f"error: cannot write to workdir {folder}: Read-only file system.\n"
    assert "compiled" not in output


def test_a_cache_that_cannot_be_written_to(tmp_path, caplog):
    path = tmp_path / "file"
    path.write_text("precious")
    command.use_compile_cache(str(path / "cache"))
    assert f"compiled programs are not kept: {path / 'cache'}: Not a directory" in caplog.text
    assert path.read_text() == "precious"


def test_too_little_memory(tmp_path):
    status, _, errors = end_of(small.start("-c", POOR_RUN, tmp_path / "run"))
    assert status == 4
    for word in ("not enough memory", "batch_size", "model.remat", "launch.plan"):
        assert word in errors


def test_a_clock_that_jumps(tmp_path, finished_run, monkeypatch):
    """Back and forth by a day, as when a machine sets it in the middle of a run."""
    now, jumps = time.time, itertools.cycle([0, -86400, 86400])
    monkeypatch.setattr(time, "time", lambda: now() + next(jumps))
    result = fit(small.config(), tmp_path / "run")
    lines = [RunDirectory(path).metrics() for path in (tmp_path / "run", finished_run)]
    assert lines[0] == lines[1]
    assert 0 < result["train_seconds"] < 1000 and result["images_per_second"] > 0
