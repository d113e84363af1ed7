"""The messages and exit statuses of all processes of a run if one of them is lost."""

import itertools
import re
import signal
import socket
import time

import pytest
import small
from cases import slow_except

from launch import train
from launch.command import run

TIMEOUT_SECONDS = 6
# Allows for the import of JAX and for a loaded machine, in addition to the timeout.
SLACK_SECONDS = 90
ENDLESS = small.flags(small.PLAIN | {"epochs": 100_000, "data.holdout": 0})


@pytest.fixture
def start(tmp_path):
    """Yields a function that starts process `process` of an endless run."""
    started = []

    def start(process, processes, address, *arguments, timeout=TIMEOUT_SECONDS, **settings):
        flags = f"--processes={processes}", f"--process={process}", f"--timeout={timeout}"
        flags += (f"--coordinator={address}", *arguments)
        command = small.start_train(tmp_path / "run", *ENDLESS, *flags, **settings)
        started.append(command)
        return command

    yield start
    for command in started:
        command.kill()
        command.communicate()


def error_of(process, status=3):
    """Waits for a process that fails; returns its error message, which is one line."""
    _, errors = process.communicate(timeout=TIMEOUT_SECONDS + SLACK_SECONDS)
    assert process.returncode == status, errors
    assert errors.startswith("error: ") and errors.count("\n") == 1, errors
    return errors


@pytest.mark.parametrize(
    ("how", "lost"),
    slow_except(
        [(signal.SIGKILL, 1)],
        itertools.product([signal.SIGKILL, signal.SIGSTOP], [0, 1]),
    ),
)
def test_a_process_that_is_lost_ends_the_other(start, tmp_path, lost, how):
    address = small.free_address()
    processes = [start(i, 2, address) for i in range(2)]
    for line in processes[0].stdout:
        if line.startswith("epoch"):
            break
    began = time.monotonic()
    processes[lost].send_signal(how)
    error = error_of(processes[1 - lost])
    assert time.monotonic() - began < (TIMEOUT_SECONDS + 30 if how == signal.SIGSTOP else 30)
    end = "died" if how == signal.SIGKILL else "has not answered for 6 s"
    assert f"process {lost} of 2 {end}" in error
    if how == signal.SIGSTOP:  # The stopped process ends as well once it continues.
        processes[lost].send_signal(signal.SIGCONT)
        assert "error: process" in error_of(processes[lost])
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.slow
def test_missing_processes_are_an_error(start, tmp_path):
    address = small.free_address()
    error = error_of(start(1, 2, address))
    assert f"process 0 at {address} within 6 s (Connect call failed" in error
    lonely = [start(i, 3, address) for i in (0, 1)]
    for process in lonely:
        assert "did not connect" in (error := error_of(process)) or "could not start" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_port_in_use_is_an_error(start):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        processes = [start(i, 2, f"127.0.0.1:{port}") for i in range(2)]
        assert f"cannot listen at port {port} (Address already in use)" in error_of(processes[0])
        assert "could not start with process 0" in error_of(processes[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "numbers", "sentence"),
    [
        ((2, 3), (0, 1), "--processes is 2 in process 0 and 3 in process 1"),
        pytest.param(
            *((3, 3, 3), (0, 1, 1), "two processes were started with --process=1"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_inconsistent_numbers_of_processes_are_an_error(start, processes, numbers, sentence):
    address = small.free_address()
    started = [start(i, n, address, timeout=60) for i, n in zip(numbers, processes, strict=True)]
    for process in started:
        assert sentence in error_of(process)


@pytest.mark.slow
def test_a_mistake_in_one_process_ends_both_with_its_status(start):
    address = small.free_address()
    wrong = start(1, 2, address, "--config.batch_size=0", timeout=60)
    other = start(0, 2, address, timeout=60)
    assert "batch_size" in error_of(wrong, status=2)
    assert "process 1 of 2 ended with status 2: see its message" in error_of(other, status=2)


def test_different_settings_in_two_processes_end_both(start):
    address = small.free_address()
    arguments = [(), ("--config.learning_rate=0.3", "--config.seed=1")]
    for process in [start(i, 2, address, *arguments[i], timeout=60) for i in range(2)]:
        assert error_of(process, status=2).startswith(
            "error: process 0 and process 1 have different settings: learning_rate (0.1 and 0.3), "
            "seed (0 and 1); give every process the same command"
        )


# Runs `launch.train` in a process that cannot write checkpoints.
FULL_DISK = """
import errno, resource, sys
from densenet_jax.train import checkpoint
from launch import train
from launch.command import run

def fail(*_):
    raise OSError(errno.ENOSPC, "No space left on device")

def save(*arguments, save=checkpoint.Checkpoints.save, **settings):
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    save(*arguments, **settings)

if "{process}" == "0":  # Fails while it completes the checkpoint of all processes.
    checkpoint.write_checksums = fail
else:  # Fails while it writes its part.
    checkpoint.Checkpoints.save = save
sys.exit(run(train.main))
"""


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_a_checkpoint_that_one_process_cannot_write_ends_both(start, process):
    address = small.free_address()
    program = "-c", FULL_DISK.format(process=process)
    broken = start(process, 2, address, timeout=60, program=program)
    other = start(1 - process, 2, address, timeout=60)
    assert "cannot write a checkpoint" in error_of(broken)
    assert f"process {process} of 2 ended with status 3: see its message" in error_of(other)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--process=5"], "--process is 5 of --processes 2"),
        (["--process=0", "--timeout=0"], "--timeout is 0"),
    ],
)
def test_wrong_flags_are_refused_at_once(tmp_path, capsys, flags, message):
    argv = ["--config", str(small.QUICKSTART), "--workdir", str(tmp_path / "run")]
    argv += ["--compile_cache=off", f"--coordinator={small.free_address()}", "--processes=2"]
    assert run(train.main, [*argv, *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


@pytest.mark.slow
def test_evaluate_connects_processes_like_training(copied_run):
    address = small.free_address()
    given = ("-m", "launch.evaluate", "--workdir", copied_run, f"--coordinator={address}")
    lonely = small.start(*given, "--processes=2", "--process=1", f"--timeout={TIMEOUT_SECONDS}")
    assert f"process 0 at {address} within 6 s" in error_of(lonely)
    both = [small.start(*given, "--processes=2", f"--process={i}") for i in range(2)]
    ends = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert re.search(r"^step \d+: .*test error \d+\.\d\d %$", ends[0][0], re.MULTILINE)


@pytest.mark.slow
def test_two_processes_that_finish_print_no_error(start):
    address = small.free_address()
    both = [start(i, 2, address, "--config.epochs=1", timeout=60) for i in range(2)]
    ends = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], ends
    assert [errors for _, errors in ends] == ["", ""]
    # A process that died at the very end can start again without the other one.
    again = start(1, 2, address, "--config.epochs=1", timeout=60)
    output, errors = again.communicate(timeout=300)
    assert again.returncode == 0 and "nothing to do" in output, errors
