"""Tests the contestants of `python -m launch.benchmark`: order, time limits, interruption."""

import json
import signal
import sys

import pytest

from launch import command
from launch.benchmark import __main__ as benchmark
from launch.benchmark import contestants
from launch.benchmark.workload import Workload

TINY = "densenet_bc_k12_d10"


def workload(**changes) -> Workload:
    settings = dict(model=TINY, depth=None, batch_size=4, dtype="float32", remat="concat", steps=1)
    return Workload(**settings | changes)


def start(name: str, workload: Workload, time_limit: float = 600):
    """Returns a context manager that starts a contestant."""
    return contestants._started(name, workload, time_limit)


@pytest.fixture
def log(monkeypatch):
    """Replaces the processes of contestants by a log; "torch" fails in its first round."""
    log = []

    class Contestant:
        def __init__(self, name, workload, stderr, time_limit):
            self.name, self.error, self.seconds = name, None, []
            log.append(f"start {name}")

        def run_round(self):
            log.append(f"round {self.name}")
            self.error = "out of memory" if self.name == "torch" else None
            self.seconds.append(0.1)

        def report(self):
            return {"contestant": self.name}

        def close(self):
            log.append(f"close {self.name}")

    monkeypatch.setattr(contestants, "Contestant", Contestant)
    return log


def names(results: list[dict]) -> list[str]:
    return [result["contestant"] for result in results]


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_contestants_run_alone_on_an_accelerator(log, platform):
    measured = contestants.measure(
        ["ours", "torch", "jax-naive"], workload(platform=platform), 2, 600
    )
    assert names(next(measured)) == ["ours"]
    assert log == ["start ours", "round ours", "round ours", "close ours"]
    assert names(next(measured)) == ["ours", "torch"]
    assert log[4:] == ["start torch", "round torch", "close torch"]
    assert names(next(measured)) == ["ours", "torch", "jax-naive"]
    assert log[7] == "start jax-naive" and log[-1] == "close jax-naive"
    assert list(measured) == []


def test_contestants_alternate_on_cpu(log):
    measured = contestants.measure(["ours", "jax-naive"], workload(), 2, 600)
    for starts in (["start ours", "start jax-naive"], []):
        log.clear()
        assert names(next(measured)) == ["ours", "jax-naive"]
        assert log == [*starts, "round ours", "round jax-naive"]
    log.clear()
    assert list(measured) == []
    assert log == ["close jax-naive", "close ours"]


def test_interrupted_benchmark_keeps_its_results(tmp_path, monkeypatch):
    kept = [{"contestant": "ours", "round_seconds": [0.1, 0.2]}]

    def measure(names, workload, rounds, time_limit):
        assert (workload.platform, workload.steps_per_round, time_limit) == ("gpu", 50, 600)
        yield kept
        raise KeyboardInterrupt

    monkeypatch.setattr(contestants, "measure", measure)
    monkeypatch.setattr(contestants, "platform", lambda: "gpu")
    command.run(benchmark.main, ["--model", TINY, "--rounds=5", "--out", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["benchmark.json"]
    report = json.loads((tmp_path / "benchmark.json").read_text())
    assert report["results"] == kept and report["block"] == "auto"
    assert report["backend"] == "gpu" and report["steps"] == 50
    assert report["rounds"] == 2, "completed rounds, not planned ones"


@pytest.mark.slow
def test_memory_of_ours_on_an_accelerator():
    with start("ours", workload(batch_size=2, steps=3, platform="gpu")) as ours:
        ours.run_round()
    report = ours.report()
    assert report["memory_kind"] == "compiler's total, with 6 images"
    assert report["memory_bytes"] > 1e6 and len(report["round_seconds"]) == 1


# Programs that never answer, and that answer once.
SILENT = "import time; time.sleep(60)"
SLOW = f"print('{{}}', flush=True); {SILENT}"


def test_contestant_that_is_not_ready_in_time_fails(monkeypatch):
    monkeypatch.setattr(contestants, "_COMMAND", (sys.executable, "-c", SILENT))
    with start("ours", workload(), time_limit=0.1) as contestant:
        assert contestant.error == "not ready after 0.1 s: raise --time_limit"
        assert contestant._process.returncode == -signal.SIGKILL
    assert contestant.report() == {"contestant": "ours", "depth": 10, "error": contestant.error}


def test_round_that_takes_too_long_fails(monkeypatch):
    monkeypatch.setattr(contestants, "_COMMAND", (sys.executable, "-c", SLOW))
    with start("ours", workload()) as contestant:
        assert contestant.error is None
        contestant._time_limit = 0.1
        contestant.run_round()
        assert contestant._process.returncode == -signal.SIGKILL
        assert contestant.error == (
            "a round took longer than 0.1 s: raise --time_limit or lower --steps"
        )
