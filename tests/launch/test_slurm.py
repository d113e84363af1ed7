"""Sweeps on a real Slurm, which the tests start."""

import json
import subprocess
import time

import jax
import local_slurm
import numpy as np
import pytest
import small

from densenet_jax.train.checkpoint import Checkpoints
from densenet_jax.train.fit import fit
from densenet_jax.train.record import RunDirectory
from densenet_jax.train.trainer import Trainer
from launch import command
from launch.sweep import __main__ as sweep
from launch.sweep.points import load_points

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(local_slurm.missing() is not None, reason=str(local_slurm.missing())),
]


@pytest.fixture(scope="module", autouse=True)
def slurm(tmp_path_factory):
    with local_slurm.running(tmp_path_factory.mktemp("slurm")):
        yield


@pytest.fixture
def submit(tmp_path):
    """Submits a sweep over seeds of the small run; returns its points."""

    def submit(seeds, changes=None, *flags):
        path = tmp_path / "seeds.py"
        points = f'hyper.sweep("config.seed", {seeds})'
        settings = small.RUN | (changes or {})
        path.write_text(small.SWEEP_FILE.format(settings=settings, points=points))
        workdir = tmp_path / "a %j sweep's"  # Slurm replaces %j by the job's number.
        argv = ["--sweep", str(path), "--workdir", str(workdir), "--on", "slurm", *flags]
        argv += ["--setup", f"export XLA_FLAGS= JAX_PLATFORMS=cpu PYTHONPATH={small.ROOT}"]
        assert command.run(sweep.main, argv) == 0
        return load_points(str(path), workdir)

    return submit


def metrics(point):
    return RunDirectory(point.workdir).metrics()


def wait_for(points):
    """Waits until all points are finished.

    Reads the state of the points, because the queue is sometimes empty between two jobs.
    """
    until = time.monotonic() + 240
    while {point.state() for point in points} != {"finished"}:
        logs = [point.last_lines(20) for point in points]
        logs += [path.read_text() for path in points[0].file("log").parent.glob("slurm-*")]
        assert "failed" not in {point.state() for point in points}, logs
        assert time.monotonic() < until, [*logs, local_slurm.state()]
        local_slurm.hurry()
        time.sleep(0.5)


def test_a_job_array(submit, finished_run):
    points = submit([0, 1], None, """--sbatch=--comment='two "words'""")
    assert 'Comment=two "words' in local_slurm.state()
    wait_for(points)
    local_slurm.wait(lambda: points[0].exit_status() == 0, 60, "the script of the job does not end")
    expected = (finished_run / "metrics.jsonl").read_bytes()
    assert (points[0].workdir / "metrics.jsonl").read_bytes() == expected
    assert metrics(points[1]) != metrics(points[0])


def test_a_point_over_two_processes(submit, finished_run):
    points = submit([0], None, "--tasks_per_node", "2")
    wait_for(points)
    assert json.loads((points[0].workdir / "environment.json").read_text())["processes"] == 2
    expected = RunDirectory(finished_run).metrics()
    for ours, theirs in zip(metrics(points[0]), expected, strict=True):
        np.testing.assert_allclose(ours["train_loss"], theirs["train_loss"], rtol=1e-4)


def test_preemption(submit, tmp_path):
    """A run that receives SIGTERM saves, is requeued, and ends with the same bits."""
    changes = small.PLAIN | {"model.dropout_rate": 0.2, "data.augment": True}
    changes |= {"epochs": 24, "checkpoint_every_epochs": 1000}
    uninterrupted = tmp_path / "uninterrupted"
    fit(small.config(changes), uninterrupted)
    [point] = submit([0], changes)
    until = time.monotonic() + 120
    while not (point.workdir / "metrics.jsonl").exists() or len(metrics(point)) < 3:
        assert time.monotonic() < until, point.last_lines(20)
        time.sleep(0.02)
    subprocess.run(["scancel", "--signal=TERM", "--user=root"], check=True)
    wait_for([point])
    log = "\n".join(point.file("log").read_text().splitlines())
    assert "received SIGTERM; saved step" in log and "resuming from step" in log
    expected = (uninterrupted / "metrics.jsonl").read_bytes()
    assert (point.workdir / "metrics.jsonl").read_bytes() == expected
    states = []
    for folder in (uninterrupted, point.workdir):
        with Checkpoints(folder / "checkpoints") as checkpoints:
            states.append(checkpoints.restore(like=Trainer(small.config(changes)).initial_state)[0])
    jax.tree.map(np.testing.assert_array_equal, *states)
