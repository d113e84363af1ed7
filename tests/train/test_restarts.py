"""--restarts: an interrupted command restarts automatically."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
import small
import torture_peers
from cases import slow_except


def command(tmp_path, *statuses):
    """Returns a command that ends with each of `statuses` in turn; signals are negative."""
    script = tmp_path / "command.py"
    script.write_text(
        "import os, pathlib, sys\n"
        "count = pathlib.Path(sys.argv[1])\n"
        "statuses = [int(text) for text in sys.argv[2:]]\n"
        "done = int(count.read_text()) if count.exists() else 0\n"
        "count.write_text(str(done + 1))\n"
        "if statuses[done] < 0:\n"
        "    os.kill(os.getpid(), -statuses[done])\n"
        "sys.exit(statuses[done])\n"
    )
    return [sys.executable, str(script), str(tmp_path / "count"), *map(str, statuses)]


# Runs in a separate process, because JAX must not have started in a process that forks.
SUPERVISOR = (
    "import signal, sys; from launch import restarts;"
    "signal.signal(signal.SIGHUP, signal.SIG_DFL);"  # The tests may run under nohup.
    "sys.exit(restarts.supervise(sys.argv[3:], int(sys.argv[1]), float(sys.argv[2])))"
)


@pytest.mark.parametrize(
    ("statuses", "allowed", "expected", "starts"),
    [
        ((3, -9, 0), 5, 0, 3),
        pytest.param((3, 3, 3), 1, 3, 2, marks=pytest.mark.slow),
        pytest.param((-9, -6), 1, 134, 2, marks=pytest.mark.slow),
        pytest.param((2,), 5, 2, 1, marks=pytest.mark.slow),
        pytest.param((4,), 5, 4, 1, marks=pytest.mark.slow),
        pytest.param((75,), 5, 75, 1, marks=pytest.mark.slow),
    ],
)
def test_only_interrupted_commands_are_restarted(tmp_path, statuses, allowed, expected, starts):
    process = small.start("-c", SUPERVISOR, allowed, "inf", *command(tmp_path, *statuses))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == expected
    assert int((tmp_path / "count").read_text()) == starts
    lines = errors.splitlines()
    restarted = [line for line in lines if line.startswith("restart ")]
    assert len(restarted) == starts - 1
    if statuses == (3, -9, 0):
        assert restarted == [
            "restart 1 of 5 in 1 s: the run ended with status 3",
            "restart 2 of 5 in 1 s: the run was killed by SIGKILL",
        ]


def start_supervisor(code):
    """Starts a supervisor of `code`; returns the supervisor and the process ID of `code`."""
    code = f"import os, time\nprint(os.getpid(), flush=True)\n{code}"
    process = small.start("-c", SUPERVISOR, 5, 2.0, sys.executable, "-c", code)
    return process, int(process.stdout.readline())


@pytest.mark.parametrize(
    "number", slow_except([signal.SIGTERM], [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
)
def test_signals_reach_the_command_and_prevent_a_restart(number):
    process, _ = start_supervisor("time.sleep(600)")
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number or number == signal.SIGINT
    assert "restart" not in errors


def test_no_command_outlives_its_supervisor():
    process, child = start_supervisor("time.sleep(600)")
    process.kill()
    process.communicate(timeout=60)
    end = time.monotonic() + 30
    while Path(f"/proc/{child}").exists() and "Z" not in status_of(child):
        assert time.monotonic() < end
        time.sleep(0.05)


def status_of(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


@pytest.mark.slow
def test_a_command_that_stays_stopped_is_restarted():
    process, child = start_supervisor("time.sleep(600)")
    os.kill(child, signal.SIGSTOP)
    assert int(process.stdout.readline()) != child
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert "restart 1 of 5 in 1 s: the run was killed by SIGKILL" in errors


@pytest.mark.slow
def test_a_negative_number_of_restarts_is_refused(tmp_path):
    process = small.start_train(tmp_path / "run", "--restarts=-1")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2 and "--restarts is -1" in errors


def check(report):
    assert report["statuses"] == [0, 0], report
    assert report["metrics_are_equal"] and report["arrays_are_equal"], report
    assert report["tracebacks"] == 0, report


@pytest.mark.slow
def test_a_run_of_two_processes_survives_two_kills(tmp_path):
    """Each process is killed once."""
    report = torture_peers.torture_pair(tmp_path, kills=2)
    check(report)
    assert report["of_process"] == [1, 1]


@pytest.mark.slow
def test_a_run_of_two_processes_survives_fifty_kills(tmp_path):
    check(torture_peers.torture_pair(tmp_path, kills=50))
