"""Runs on machines with a full disk, no permission, little memory or an unsteady clock."""

import itertools
import re
import subprocess
import time

import jax
import pytest
import small

from densenet_jax.errors import RunError
from densenet_jax.train.failures import failures_reported
from densenet_jax.train.fit import fit
from densenet_jax.train.record import RunDirectory
from launch import command, train

# Limits its memory to little more than it has when it starts.
POOR_RUN = """
import resource, sys
import jax, small
from densenet_jax.train import process
from densenet_jax.train.fit import fit
from launch import command

def main(argv):
    process.configure(jax_is_unused=True)
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
    """Yields a function that mounts a file system with given options, and returns its path."""
    directory = tmp_path / "disk"
    directory.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting is not allowed here")
        return directory

    yield mount
    subprocess.run(["umount", directory], capture_output=True)


def end_of(process):
    """Waits for a process; returns its status, output and errors."""
    output, errors = process.communicate(timeout=300)
    assert "Traceback" not in errors
    return process.returncode, output, errors


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_free_space_resumes_it(disk, tmp_path):
    changes = small.PLAIN | {"checkpoint_every_epochs": 1}
    directory = disk("size=220k") / "run"
    status, _, errors = end_of(small.start_train(directory, *small.flags(changes)))
    assert status == 3 and errors.count("\n") == 1
    assert re.search(r"the disk is full.*the checkpoint of step \d+ is kept", errors)
    disk("remount,size=10m")
    fit(small.config(changes), directory)
    fit(small.config(changes), tmp_path / "other")
    metrics = [(path / "metrics.jsonl").read_bytes() for path in (directory, tmp_path / "other")]
    assert metrics[0] == metrics[1]


def test_a_read_only_disk_is_refused(disk, capsys):
    directory = disk("ro")
    argv = ["--config", str(small.QUICKSTART), "--workdir", str(directory), "--compile_cache=off"]
    assert command.run(train.main, argv) == 2
    output, errors = capsys.readouterr()
    assert errors == f"error: cannot write to workdir {directory}: Read-only file system\n"
    assert "compiled" not in output


def test_an_unusable_compile_cache_is_reported(tmp_path, caplog):
    path = tmp_path / "file"
    path.write_text("precious")
    command.use_compile_cache(str(path / "cache"))
    assert f"compiled programs are not stored: {path / 'cache'}: Not a directory" in caplog.text
    assert path.read_text() == "precious"


@pytest.mark.slow
def test_too_little_memory_is_reported_with_remedies(tmp_path):
    status, _, errors = end_of(small.start("-c", POOR_RUN, tmp_path / "run"))
    assert status == 4
    for word in ("not enough memory", "batch_size", "model.remat", "launch.plan"):
        assert word in errors


@pytest.mark.parametrize(
    "text", ["INTERNAL: No DNN support for stream", "UNKNOWN: <unknown cudnn status: 5003>"]
)
def test_a_failure_of_cudnn_is_reported_with_a_remedy(tmp_path, monkeypatch, text):
    """The texts are those of jax 0.11.2 on an H100."""
    error = jax.errors.JaxRuntimeError(text)
    monkeypatch.setenv("CUDA_MODULE_LOADING", "EAGER")
    with pytest.raises(RunError, match="=LAZY"), failures_reported(RunDirectory(tmp_path)):
        raise error
    monkeypatch.setenv("CUDA_MODULE_LOADING", "LAZY")
    with pytest.raises(type(error)), failures_reported(RunDirectory(tmp_path)):
        raise error


@pytest.mark.slow
def test_a_clock_that_jumps_changes_no_result(tmp_path, finished_run, monkeypatch):
    """The clock jumps by a day in both directions, as if the machine set it during the run."""
    now, jumps = time.time, itertools.cycle([0, -86400, 86400])
    monkeypatch.setattr(time, "time", lambda: now() + next(jumps))
    result = fit(small.config(), tmp_path / "run")
    lines = [RunDirectory(path).metrics() for path in (tmp_path / "run", finished_run)]
    assert lines[0] == lines[1]
    assert 0 < result["train_seconds"] < 1000 and result["images_per_second"] > 0
