"""Estimates the hours of points from finished runs of the same network and data."""

import shlex
from collections.abc import Hashable, Iterator
from pathlib import Path

from densenet_jax.errors import counted
from densenet_jax.train.config import flatten
from launch.paths import ROOT
from launch.report.runs import Run, find_runs, hardware, network_name, network_of, protocol
from launch.sweep.points import Point

_RECORD = ROOT / "experiments" / "results"
_SECONDS_PER_HOUR = 3600


def expected_hours(points: list[Point]) -> str:
    """Returns a line for each of `points` with its expected hours, or how to estimate the hours.

    An estimate comes from a finished run in the directory of the sweep, or else in the record of
    the project. The run has the same network and data, and its hardware is part of the line. Runs
    may differ in the number of epochs, in the batch size and in other settings of the training.
    """
    known: dict[Hashable, Run] = {}
    for run in _runs(points[0].directory):
        known.setdefault(_key(run), run)
    lines: list[str] = []
    unknown: list[Point] = []
    for point in points:
        config = flatten(point.config)
        if same := known.get(_key(Run(point.workdir, config, {}, {}))):
            lines.append(f"{point.name}: {_estimate(same, config)}")
        else:
            unknown.append(point)
    if unknown:
        lines.append(_advice(unknown))
    return "\n".join(["expected hours:", *lines])


def _runs(directory: Path) -> Iterator[Run]:
    """Yields the finished runs in `directory`, then the runs of the record."""
    for path in (directory, _RECORD):
        if path.is_dir():
            yield from find_runs(path).finished


def _key(run: Run) -> Hashable:
    """Returns a value that is equal for runs of the same network, data and precision."""
    config = run.config
    data = {key: value for key, value in protocol(config).items() if key.startswith("data.")}
    directory = config["data.directory"] if config["data.name"] == "folder" else None
    return network_of(run), repr(data), directory, config["dtype"]


def _estimate(run: Run, config: dict) -> str:
    """Returns for example "about 0.04 h on 1 of 2 CPU cores, from runs/a (412 images/s)"."""
    seconds = run.result["train_seconds"] * config["epochs"] / run.result["epochs"]
    hours = seconds / _SECONDS_PER_HOUR
    amount = f"about {hours:,.2f} h" if hours >= 0.01 else "less than 0.01 h"
    batch = ""
    if run.config["batch_size"] != config["batch_size"]:
        batch = f" in batches of {run.config['batch_size']}"
    rate = f"{run.result['images_per_second']:,.0f} images/s{batch}"
    return f"{amount} on {hardware(run)}, from {_shown(run.path)} ({rate})"


def _shown(path: Path) -> Path:
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def _advice(points: list[Point]) -> str:
    """Returns how to estimate the hours of points for which there is no finished run."""
    first = points[0]
    plan = ["python", "-m", "launch.plan", "--config", first.spec, *first.overrides]
    network = network_name(flatten(first.config))
    return (
        f"{counted(len(points), 'point')}, such as {first.name}: unknown, because no finished run "
        f"in {first.directory} or in {_RECORD} has the same network ({network}) and data: estimate "
        f"the images/s with {shlex.join([*plan, '--target', 'h100'])}"
    )
