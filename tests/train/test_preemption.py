"""A run that receives a signal saves a checkpoint at once, and resumes to the same bits."""

import json
import os
import signal

import pytest
import small
from cases import slow_except

from densenet_jax.errors import PREEMPTED_STATUS
from densenet_jax.train.checkpoint import Checkpoints
from densenet_jax.train.fit import fit
from densenet_jax.train.preemption import Preemption
from densenet_jax.train.record import RunDirectory
from launch import hosts

SCRIPT = "tests/train/stopped_run.py"


@pytest.mark.parametrize("step", slow_except([30], [30, 22, 21]))
def test_a_resumed_run_has_the_metrics_of_an_uninterrupted_run(tmp_path, finished_run, step):
    """Stops the run in the middle of an epoch, in its last step, and in the step before."""
    directory = tmp_path / "run"
    process = small.start(SCRIPT, directory, step, "{}")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == PREEMPTED_STATUS, errors
    assert errors.splitlines()[-1].startswith(f"received SIGTERM; saved step {step}.")
    with Checkpoints(directory / "checkpoints") as checkpoints:
        assert checkpoints.steps()[0] == step
    assert len(RunDirectory(directory).metrics()) == step // small.STEPS_PER_EPOCH
    process = small.start(SCRIPT, directory, 0, "{}")
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert f"resuming from step {step}" in output
    expected = (finished_run / "metrics.jsonl").read_bytes()
    assert (directory / "metrics.jsonl").read_bytes() == expected


def test_a_run_with_kernels_resumes_bit_for_bit(tmp_path):
    run = {"epochs": 2, "checkpoint_every_epochs": 1, "data.examples": 200}
    changes = small.PLAIN | run | {"model.block": "kernels"}
    fit(small.config(changes), tmp_path / "alone")
    for step, status in ((3, PREEMPTED_STATUS), (0, 0)):
        process = small.start(SCRIPT, tmp_path / "stopped", step, json.dumps(changes))
        _, errors = process.communicate(timeout=300)
        assert process.returncode == status, errors
    expected, actual = (tmp_path / name / "metrics.jsonl" for name in ("alone", "stopped"))
    assert actual.read_bytes() == expected.read_bytes()


@pytest.mark.slow
def test_a_signal_after_the_save_keeps_the_exit_status(tmp_path):
    """Hosts of a run may be taken away some seconds apart."""
    changes = small.PLAIN | {"epochs": 1000}
    process = small.start_train(tmp_path / "run", *small.flags(changes))
    assert process.stdout and process.stderr
    for ends, start in ((process.stdout, "epoch"), (process.stderr, "received SIGTERM; saved")):
        assert any(line.startswith(start) for line in ends)
        process.send_signal(signal.SIGTERM)
    while process.poll() is None:
        process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == PREEMPTED_STATUS


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGHUP", "SIGINT"])
def test_other_signals_save_as_well(tmp_path, name):
    process = small.start(SCRIPT, tmp_path / "run", 3, json.dumps(small.PLAIN), SIGNALS=name)
    ((status, _, errors),) = outputs([process])
    assert status == PREEMPTED_STATUS
    assert errors.splitlines()[-1].startswith(f"received {name}; saved step 3.")
    # SIGINT also prints how to end at once.
    assert errors.count("\n") == 1 + (name == "SIGINT")


@pytest.mark.slow
@pytest.mark.parametrize("names", ["SIGTERM SIGINT", "SIGINT SIGINT", "SIGTERM SIGHUP SIGINT"])
def test_ctrl_c_after_a_signal_ends_a_run_at_once(tmp_path, names):
    directory = tmp_path / "run"
    process = small.start(SCRIPT, directory, 30, json.dumps(small.PLAIN), SIGNALS=names)
    ((status, _, errors),) = outputs([process])
    assert status == 130
    assert errors.splitlines()[-1].startswith("interrupted: ended at once")
    assert errors.count("\n") == 1 + names.startswith("SIGINT")
    ((status, _, _),) = outputs([small.start(SCRIPT, directory, 0, json.dumps(small.PLAIN))])
    assert status == 0


def start_two(directory, *flags):
    """Starts the same command twice, as on two hosts."""
    coordinator = small.free_address()
    return [
        small.start_train(
            directory, *flags, f"--coordinator={coordinator}", "--processes=2", f"--process={i}"
        )
        for i in range(2)
    ]


def outputs(processes):
    """Waits for processes; returns (status, output, errors) of each."""
    found = [process.communicate(timeout=300) for process in processes]
    return [(process.returncode, *texts) for process, texts in zip(processes, found, strict=True)]


@pytest.mark.slow
def test_a_state_with_a_nan_loss_is_not_saved(tmp_path):
    """The signal comes with the step whose loss is NaN."""
    changes = json.dumps(small.PLAIN | {"learning_rate": 1e30})
    process = small.start(SCRIPT, tmp_path / "run", 2, changes)
    ((status, _, errors),) = outputs([process])
    assert status == 4 and "the training loss is nan in step 2" in errors
    assert "no checkpoint was saved" in errors
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_two_processes_stop_together(tmp_path):
    """Only one process receives the signal; both save the same step, and one can resume."""
    epochs = {"epochs": 200, "checkpoint_every_epochs": 1000, "eval_every_epochs": 200}
    flags = small.flags(small.PLAIN | epochs)
    directory = tmp_path / "run"
    processes = start_two(directory, *flags)
    for line in processes[0].stdout:
        if line.startswith("epoch   3/"):
            processes[1].send_signal(signal.SIGTERM)
            break
    ends = outputs(processes)
    assert [status for status, _, _ in ends] == [PREEMPTED_STATUS] * 2, ends
    assert "received SIGTERM; saved step" in ends[0][2]
    with Checkpoints(directory / "checkpoints") as checkpoints:
        step = checkpoints.steps()[0]
    assert step >= 3 * small.STEPS_PER_EPOCH
    assert not (directory / "result.json").exists()
    # One process can resume from the checkpoint of two processes.
    process = small.start_train(directory, *flags)
    for line in process.stdout:
        if "resuming from step" in line:
            assert f"step {step} " in line
        if line.startswith("epoch"):
            break
    process.terminate()
    assert outputs([process])[0][0] == PREEMPTED_STATUS
    assert json.loads((directory / "environment.json").read_text())["processes"] == 1


@pytest.mark.parametrize(
    ("tasks", "nodes", "gpus", "expected"),
    [("2", "2", "4", [0, 1, 2, 3]), ("8", "2", "4", None), ("2", "2", None, None)],
)
def test_a_slurm_task_that_is_alone_on_its_node_gets_all_gpus(tasks, nodes, gpus, expected):
    environment = {"SLURM_STEP_NUM_TASKS": tasks, "SLURM_STEP_NUM_NODES": nodes}
    environment |= {"SLURM_GPUS_ON_NODE": gpus} if gpus else {}
    assert hosts.gpus_of_slurm_task(environment) == expected


@pytest.mark.slow
def test_flags_of_several_hosts_must_be_set_together(tmp_path):
    process = small.start_train(tmp_path / "run", "--coordinator=127.0.0.1:1")
    status, _, errors = outputs([process])[0]
    assert status == 2 and "--coordinator, --processes and --process must be set together" in errors


def test_a_hangup_that_nohup_ignores_stays_ignored():
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Preemption() as preemption:
            os.kill(os.getpid(), signal.SIGHUP)
            preemption.check(1)  # Would raise StopRequested.
    finally:
        signal.signal(signal.SIGHUP, previous)
