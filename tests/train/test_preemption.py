"""SIGTERM: a run saves itself at once, and goes on to the same bits."""

import json
import signal
import socket

import numpy as np
import pytest
import small

from densenet_jax.errors import PREEMPTED_STATUS
from densenet_jax.train.checkpoint import Checkpoints
from densenet_jax.train.record import RunDirectory
from launch import command

# Sends itself SIGTERM in the middle of its second epoch, and once before a step of its third.
STOPPED_RUN = """
import os, signal, sys
import small
from densenet_jax.train.fit import fit
from densenet_jax.train.trainer import Trainer
from launch import command

train, dispatches = Trainer.train, 0

def train_and_signal(trainer, *arguments):
    global dispatches
    dispatches += 1
    if dispatches == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGTERM)
    return train(trainer, *arguments)

Trainer.train = train_and_signal
sys.exit(command.run(lambda argv: fit(small.config(), sys.argv[1])))
"""


@pytest.mark.parametrize("step", [30, 22, 21])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path, finished_run, step):
    """In the middle of an epoch, in its last step, and in the step before."""
    folder = tmp_path / "run"
    process = small.start("-c", STOPPED_RUN, folder, step)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == PREEMPTED_STATUS, errors
    assert errors.splitlines()[-1].startswith(f"told to stop: step {step} is saved")
    with Checkpoints(folder / "checkpoints") as checkpoints:
        assert checkpoints.steps()[0] == step
    assert len(RunDirectory(folder).metrics()) == step // small.STEPS_PER_EPOCH
    process = small.start("-c", STOPPED_RUN, folder, -1)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert f"going on from step {step}" in output
    expected = (finished_run / "metrics.jsonl").read_bytes()
    assert (folder / "metrics.jsonl").read_bytes() == expected


def start_two(folder, *flags):
    """The same command twice, as on two hosts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        small.start_train(
            folder, *flags, f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process={i}"
        )
        for i in range(2)
    ]


def outputs(processes):
    found = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, found, strict=True)]


def test_two_processes_get_the_losses_of_one(tmp_path, finished_run):
    ends = outputs(start_two(tmp_path / "run", *small.flags()))
    assert [status for status, _, _ in ends] == [0, 0], ends
    # Only the first one talks.
    assert "epoch 4/4" in ends[0][1] and "epoch" not in ends[1][1]
    ours, theirs = (RunDirectory(path).metrics() for path in (tmp_path / "run", finished_run))
    for mine, other in zip(ours, theirs, strict=True):
        for key in ("train_loss", "test_loss", "validation_loss"):
            np.testing.assert_allclose(mine[key], other[key], rtol=1e-4)


def test_two_processes_stop_together(tmp_path):
    """Only one of them is signalled; both save the same step, and go on."""
    flags = small.flags({"epochs": 200, "checkpoint_every_epochs": 1000, "eval_every_epochs": 200})
    folder = tmp_path / "run"
    processes = start_two(folder, *flags)
    for line in processes[0].stdout:
        if line.startswith("epoch   3/"):
            processes[1].send_signal(signal.SIGTERM)
            break
    ends = outputs(processes)
    assert [status for status, _, _ in ends] == [PREEMPTED_STATUS] * 2, ends
    assert "told to stop: step" in ends[0][2]
    with Checkpoints(folder / "checkpoints") as checkpoints:
        step = checkpoints.steps()[0]
    assert step >= 3 * small.STEPS_PER_EPOCH
    assert not (folder / "result.json").exists()
    # One process can go on with what two have saved.
    process = small.start_train(folder, *flags)
    for line in process.stdout:
        if "going on from step" in line:
            assert f"step {step} " in line
        if line.startswith("epoch"):
            break
    process.terminate()
    assert outputs([process])[0][0] == PREEMPTED_STATUS
    assert json.loads((folder / "environment.json").read_text())["processes"] == 1


@pytest.mark.parametrize(
    ("tasks", "nodes", "gpus", "expected"),
    [("2", "2", "4", [0, 1, 2, 3]), ("8", "2", "4", None), ("2", "2", None, None)],
)
def test_a_slurm_task_alone_on_its_node_has_all_its_gpus(tasks, nodes, gpus, expected):
    environment = {"SLURM_STEP_NUM_TASKS": tasks, "SLURM_STEP_NUM_NODES": nodes}
    environment |= {"SLURM_GPUS_ON_NODE": gpus} if gpus else {}
    assert command.gpus_of_slurm_task(environment) == expected


def test_flags_of_several_hosts_go_together(tmp_path):
    process = small.start_train(tmp_path / "run", "--coordinator=127.0.0.1:1")
    status, _, errors = outputs([process])[0]
    assert status == 2 and "--coordinator, --processes and --process go together" in errors
