"""Finished runs, and which of them reproduce an experiment."""

import statistics
from collections.abc import Hashable
from pathlib import Path
from typing import NamedTuple, TypeVar

from ml_collections import ConfigDict

from densenet_jax.errors import InputError
from densenet_jax.train.config import flatten
from densenet_jax.train.record import RunDirectory

# What two runs may differ in and yet follow the same protocol.
NOT_PROTOCOL = (
    "seed",
    "data.directory",
    "eval_batch_size",
    "checkpoint_every_epochs",
    "steps_per_dispatch",
    "model.remat",
)

# What tells most about a run, and so is named first.
_FIRST = ("data.name", "model.name", "epochs")

Key = TypeVar("Key", bound=Hashable)


class Run(NamedTuple):
    """A finished run: its folder, its config as {"model.name": ..., ...}, and its result."""

    path: Path
    config: dict
    result: dict


class Measured(NamedTuple):
    """Test errors in percent, one for each seed; maybe none."""

    errors: tuple[float, ...] = ()

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.errors) if self.errors else None

    @property
    def std(self) -> float | None:
        """The standard deviation between seeds, estimated without bias; None of less than two."""
        return statistics.stdev(self.errors) if len(self.errors) > 1 else None

    def __str__(self) -> str:
        """Such as "4.61 ± 0.08"."""
        if not self.errors:
            return "not run"
        return f"{self.mean:.2f}" + ("" if self.std is None else f" ± {self.std:.2f}")


class OtherRun(NamedTuple):
    """A run that reproduces none of the experiments, and how it differs from the nearest one."""

    run: Run
    differences: list[str]


def find_runs(folder: Path) -> tuple[list[Run], list[Path]]:
    """Finished runs anywhere in `folder`, and the folders of those that are not finished.

    Raises InputError if there is no such folder, or if a file of a run is damaged.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: name one that holds run directories.")
    finished, unfinished = [], []
    for path in sorted(file.parent for file in folder.rglob("environment.json")):
        directory = RunDirectory(path)
        result = directory.result()
        if result is None:
            unfinished.append(path)
        else:
            finished.append(Run(path, flatten(directory.config()), result))
    return finished, unfinished


def assign(
    runs: list[Run], experiments: dict[Key, ConfigDict]
) -> tuple[dict[Key, list[Run]], list[OtherRun]]:
    """The runs of each experiment, one for each seed, and all others.

    A run belongs to an experiment if it followed the very protocol, on the official data.
    """
    matched = {key: [] for key in experiments}
    others = []
    for run in runs:
        differing = {key: differences(run, config) for key, config in experiments.items()}
        nearest = min(differing, key=lambda key: len(differing[key]))
        seeds = [known.result["seed"] for known in matched[nearest]]
        if differing[nearest]:
            others.append(OtherRun(run, differing[nearest]))
        elif run.result["seed"] in seeds:
            others.append(OtherRun(run, [f"seed {run.result['seed']} a second time"]))
        else:
            matched[nearest].append(run)
    return matched, others


def differences(run: Run, experiment: ConfigDict) -> list[str]:
    """How `run` departs from the protocol of `experiment`; a phrase for each."""
    wanted = flatten(experiment)
    wanted = {key: wanted[key] for key in _FIRST} | wanted
    ignored = set(NOT_PROTOCOL)
    if experiment.report == "last_epoch":
        ignored.add("eval_every_epochs")
    phrases = [
        f"{key} {run.config[key]} instead of {value}"
        for key, value in wanted.items()
        if key not in ignored and run.config[key] != value
    ]
    if not run.result.get("official_data"):
        phrases.append("not the official data")
    return phrases
