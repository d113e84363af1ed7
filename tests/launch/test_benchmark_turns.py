"""Contestants of `python -m launch.benchmark`: turns, time limits, results of an interruption."""

import json
import signal
import sys

import pytest

from launch import command
from launch.benchmark import __main__ as benchmark
from launch.benchmark import turns
from launch.benchmark.job import Job

TINY = "densenet_bc_k12_d10"


def job(**changes) -> Job:
    settings = dict(model=TINY, depth=None, batch_size=4, dtype="float32", remat="concat", steps=1)
    return Job(**settings | changes)


def start(name: str, job: Job, time_limit: float = 600):
    """Returns a context manager that starts a contestant."""
    return turns._started(name, job, time_limit)


@pytest.fixture
def log(monkeypatch):
    """Replaces the processes of contestants; "torch" fails in its first turn."""
    log = []

    class Contestant:
        def __init__(self, name, job, stderr, time_limit):
            self.name, self.error, self.seconds = name, None, []
            log.append(f"start {name}")

        def take_turn(self):
            log.append(f"turn {self.name}")
            self.error = "no memory" if self.name == "torch" else None
            self.seconds.append(0.1)

        def report(self):
            return {"contestant": self.name}

        def close(self):
            log.append(f"close {self.name}")

    monkeypatch.setattr(turns, "Contestant", Contestant)
    return log


def names(results: list[dict]) -> list[str]:
    return [result["contestant"] for result in results]


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_contestants_have_an_accelerator_alone(log, platform):
    measured = turns.measure(["ours", "torch", "jax-naive"], job(platform=platform), 2, 600)
    assert names(next(measured)) == ["ours"]
    assert log == ["start ours", "turn ours", "turn ours", "close ours"]
    assert names(next(measured)) == ["ours", "torch"]
    assert log[4:] == ["start torch", "turn torch", "close torch"]
    assert names(next(measured)) == ["ours", "torch", "jax-naive"]
    assert log[7] == "start jax-naive" and log[-1] == "close jax-naive"
    assert list(measured) == []


def test_contestants_take_turns_on_cpu(log):
    measured = turns.measure(["ours", "jax-naive"], job(), 2, 600)
    for starts in (["start ours", "start jax-naive"], []):
        log.clear()
        assert names(next(measured)) == ["ours", "jax-naive"]
        assert log == [*starts, "turn ours", "turn jax-naive"]
    log.clear()
    assert list(measured) == []
    assert log == ["close jax-naive", "close ours"]


def test_an_interrupted_benchmark_keeps_its_results(tmp_path, monkeypatch):
    kept = [{"contestant": "ours"}]

    def measure(names, job, rounds, time_limit):
        assert (job.platform, job.turn_steps, time_limit) == ("gpu", 50, 600)
        yield kept
        raise KeyboardInterrupt

    monkeypatch.setattr(turns, "measure", measure)
    monkeypatch.setattr(turns, "platform", lambda: "gpu")
    command.run(benchmark.main, ["--model", TINY, "--out", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["benchmark.json"]
    report = json.loads((tmp_path / "benchmark.json").read_text())
    assert report["results"] == kept
    assert report["backend"] == "gpu" and report["steps"] == 50


def test_ours_as_on_an_accelerator():
    with start("ours", job(batch_size=2, steps=3, platform="gpu")) as ours:
        ours.take_turn()
    report = ours.report()
    assert report["memory_kind"] == "compiler's total, with 6 images"
    assert report["memory_bytes"] > 1e6 and len(report["round_seconds"]) == 1


# Processes that answer never, or once.
SILENT = "import time; time.sleep(60)"
SLOW = f"print('{{}}', flush=True); {SILENT}"


def test_a_contestant_that_is_not_ready_in_time(monkeypatch):
    monkeypatch.setattr(turns, "_COMMAND", (sys.executable, "-c", SILENT))
    with start("ours", job(), time_limit=0.1) as contestant:
        assert contestant.error == "not ready after 0.1 s: raise --time_limit"
        assert contestant._process.returncode == -signal.SIGKILL
    assert contestant.report() == {"contestant": "ours", "depth": 10, "error": contestant.error}


def test_a_turn_that_takes_too_long(monkeypatch):
    monkeypatch.setattr(turns, "_COMMAND", (sys.executable, "-c", SLOW))
    with start("ours", job()) as contestant:
        assert contestant.error is None
        contestant._time_limit = 0.1
        contestant.take_turn()
        assert contestant._process.returncode == -signal.SIGKILL
        assert contestant.error == (
            "a turn took longer than 0.1 s: raise --time_limit or lower --steps"
        )
