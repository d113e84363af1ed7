"""`python -m launch`: lists the commands without importing them."""

import subprocess
import sys

import pytest
import small

from launch.__main__ import commands


@pytest.mark.parametrize("flags", [[], ["--help"]])
def test_commands_are_listed(flags):
    python = [sys.executable, "-X", "importtime", "-m", "launch"]
    done = subprocess.run([*python, *flags], cwd=small.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, summary in commands():
        assert any(line.split() == [name, *summary.split()] for line in done.stdout.splitlines())
    assert not {" jax", " numpy"} & {line.rpartition("|")[2] for line in done.stderr.splitlines()}


def test_every_command_has_a_summary():
    found = dict(commands())
    assert {"train", "evaluate", "predict", "sweep", "report", "plan", "benchmark"} <= found.keys()
    assert all(found.values())
    for name in found:
        path = small.ROOT / "launch" / name
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()


def test_a_command_as_an_argument_is_refused():
    done = subprocess.run(
        [sys.executable, "-m", "launch", "train"], cwd=small.ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "python -m launch.COMMAND" in done.stderr
