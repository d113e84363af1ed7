"""Finished runs, and which of them reproduce an experiment."""

import dataclasses
import functools
import statistics
from collections.abc import Hashable
from pathlib import Path
from typing import NamedTuple, TypeVar

from ml_collections import ConfigDict

from densenet_jax.analysis.counts import count_macs
from densenet_jax.data import sources
from densenet_jax.errors import InputError
from densenet_jax.models.catalog import model_config
from densenet_jax.models.densenet import DenseNetConfig
from densenet_jax.models.settings import NetworkConfig
from densenet_jax.train.config import flatten
from densenet_jax.train.record import RunDirectory

# What two runs may differ in and yet follow the same protocol.
NOT_PROTOCOL = (
    "seed",
    "data.directory",
    "data.workers",
    "data.skip_broken",
    "data.ten_crops",
    "eval_batch_size",
    "checkpoint_every_epochs",
    "steps_per_dispatch",
    "deterministic",
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


def network(config: NetworkConfig) -> NetworkConfig:
    """The same for all networks that differ in nothing but classes, channels and how they run."""
    same = dict(num_classes=1, in_channels=1, remat="none", bn_group_size=0)
    if isinstance(config, DenseNetConfig):
        span = config.span if config.connectivity == "span" else 1
        same |= dict(block_config=config.blocks, depth=None, span=span)
    fields = {field.name for field in dataclasses.fields(config)}
    return dataclasses.replace(config, **{k: v for k, v in same.items() if k in fields})


def network_of(run: Run) -> NetworkConfig:
    """`network` of a run."""
    return network(_model_config(run))


def macs(run: Run) -> int:
    """Multiply-adds for one of the run's images."""
    height, width, channels = _image_shape(run)
    return _count(dataclasses.replace(_model_config(run), in_channels=channels), height, width)


_count = functools.cache(count_macs)


def _image_shape(run: Run) -> tuple[int, int, int]:
    return sources.image_shape(run.config["data.name"], run.config["data.image_size"])


def _model_config(run: Run) -> NetworkConfig:
    group = {k.removeprefix("model."): v for k, v in run.config.items() if k.startswith("model.")}
    name = group.pop("name")
    return model_config(name, **{k: v for k, v in group.items() if v is not None})


def memory_gb(run: Run) -> float | None:
    """What training took of a device at most; if that did not tell, a step's temporaries."""
    taken = run.result.get("peak_memory_bytes", run.result.get("step_temp_bytes"))
    return taken and taken / 1e9


def protocol(config: dict) -> dict:
    """The keys of a flat config that say how a network was trained, and on what."""
    ignored = _not_protocol(config["report"])
    return {k: v for k, v in config.items() if k not in ignored and not k.startswith("model.")}


def _not_protocol(report: str) -> set[str]:
    return {*NOT_PROTOCOL, *(["eval_every_epochs"] if report == "last_epoch" else [])}


def by_seed(runs: list[Run]) -> Measured:
    """Test errors of runs of one network by one protocol; of a seed that came twice, the last."""
    return Measured(tuple({run.result["seed"]: run.result["test_error"] for run in runs}.values()))


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
    ignored = _not_protocol(experiment.report)
    phrases = [
        f"{key} {run.config[key]} instead of {value}"
        for key, value in wanted.items()
        if key not in ignored and run.config[key] != value
    ]
    if not run.result.get("official_data"):
        phrases.append("not the official data")
    return phrases
