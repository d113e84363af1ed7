"""Finds finished runs and matches them with the experiments that they reproduce."""

import dataclasses
import functools
import statistics
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from densenet_jax.analysis.counts import count_macs
from densenet_jax.data import sources
from densenet_jax.errors import InputError
from densenet_jax.files import read_object
from densenet_jax.models.catalog import model_config
from densenet_jax.models.densenet import DenseNetConfig
from densenet_jax.models.network import NetworkConfig
from densenet_jax.train.record import RunDirectory
from launch import run_files

# Keys in which runs of the same protocol may differ.
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

# Keys that describe a run best, so that they come first in a list of differences.
_FIRST = ("data.name", "model.name", "epochs")

Key = TypeVar("Key", bound=Hashable)


class Run(NamedTuple):
    """A finished run.

    Attributes:
      path: the run directory.
      config: the flat config, {"model.name": ..., ...}.
      result: the content of result.json.
      environment: the content of environment.json.
    """

    path: Path
    config: dict
    result: dict
    environment: dict


class Found(NamedTuple):
    """The runs in a directory.

    Attributes:
      finished: the finished runs.
      unfinished: paths of the runs without a result.
      broken: an error message for each run that cannot be read.
    """

    finished: list[Run]
    unfinished: list[Path]
    broken: list[str]


class Measured(NamedTuple):
    """Test errors in percent, one for each seed; may be empty."""

    errors: tuple[float, ...] = ()

    @property
    def mean(self) -> float | None:
        """The mean test error; None without seeds."""
        return statistics.fmean(self.errors) if self.errors else None

    @property
    def std(self) -> float | None:
        """The sample standard deviation between seeds; None with fewer than two seeds."""
        return statistics.stdev(self.errors) if len(self.errors) > 1 else None

    def __str__(self) -> str:
        """Returns for example "4.61 ± 0.08"."""
        if not self.errors:
            return "not run"
        return f"{self.mean:.2f}" + ("" if self.std is None else f" ± {self.std:.2f}")


class OtherRun(NamedTuple):
    """A run that reproduces no experiment, and its differences from the nearest experiment."""

    run: Run
    differences: list[str]


def find_runs(directory: Path) -> Found:
    """Finds the runs anywhere in `directory`. Raises InputError if there is no such directory."""
    if not directory.is_dir():
        raise InputError(f"there is no directory {directory}: name one that holds run directories")
    found = Found([], [], [])
    for path in sorted(file.parent for file in run_files.find_files(directory, "environment.json")):
        try:
            run = _read(path)
        except InputError as error:
            found.broken.append(str(error))
        else:
            if run:
                found.finished.append(run)
            else:
                found.unfinished.append(path)
    return found


def _read(path: Path) -> Run | None:
    """Reads a run; returns None if it is unfinished. Raises InputError if a file is damaged."""
    result = RunDirectory(path).result()
    if result is None:
        return None
    config, environment = run_files.flat_config(path), read_object(path / "environment.json")
    if config is None or environment is None:
        missing = "config.json" if config is None else "environment.json"
        raise InputError(f"{path} is not a run directory: it has no {missing}")
    run = Run(path, config, result, environment)
    try:
        network_of(run)
    except InputError as error:
        raise InputError(
            f"{path / 'config.json'} is damaged ({error}): restore or remove it"
        ) from error
    return run


def network(config: NetworkConfig) -> NetworkConfig:
    """Returns a config that is equal for all variants of a network.

    Variants differ only in classes, channels, and settings that leave the function unchanged.
    """
    same: dict[str, Any] = dict(num_classes=1, in_channels=1, remat="none", bn_group_size=0)
    if isinstance(config, DenseNetConfig):
        span = config.span if config.connectivity == "span" else 1
        same |= dict(block_config=config.blocks, depth=None, span=span)
    fields = {field.name for field in dataclasses.fields(config)}
    return dataclasses.replace(config, **{k: v for k, v in same.items() if k in fields})


def network_of(run: Run) -> NetworkConfig:
    """Returns `network` for the network of a run."""
    return _networks(_model(run))[1]


def macs(run: Run) -> int:
    """Returns the multiply-adds of a run's network for one image."""
    height, width, channels = _image_shape(run)
    config, _ = _networks(_model(run))
    return _count(dataclasses.replace(config, in_channels=channels), height, width)


_count = functools.cache(count_macs)


def _image_shape(run: Run) -> tuple[int, int, int]:
    return sources.image_shape(run.config["data.name"], run.config["data.image_size"])


def _model(run: Run) -> tuple[tuple[str, object], ...]:
    """Returns the settings in the group `model` of a run's config that are not None."""
    return tuple(
        (key.removeprefix("model."), value)
        for key, value in run.config.items()
        if key.startswith("model.") and value is not None
    )


@functools.cache
def _networks(model: tuple[tuple[str, object], ...]) -> tuple[NetworkConfig, NetworkConfig]:
    """Returns the config of a network, and `network` of that config."""
    settings = dict(model)
    config = model_config(str(settings.pop("name", None)), **settings)
    return config, network(config)


def memory_gb(run: Run) -> float | None:
    """Returns the peak memory of a device; if unknown, the temporary memory of a step."""
    used = run.result.get("peak_memory_bytes", run.result.get("step_temp_bytes"))
    return used and used / 1e9


def protocol(config: dict) -> dict:
    """Returns the entries of a flat config that describe training and data."""
    ignored = _not_protocol(config["report"])
    return {k: v for k, v in config.items() if k not in ignored and not k.startswith("model.")}


def _not_protocol(report: str) -> set[str]:
    """Returns the keys that do not matter, given the key `report` of the config."""
    return {*NOT_PROTOCOL, *(["eval_every_epochs"] if report == "last_epoch" else [])}


def by_seed(runs: list[Run]) -> Measured:
    """Returns the test errors of runs that differ in their seeds; the last run of a seed counts."""
    return Measured(tuple({run.result["seed"]: run.result["test_error"] for run in runs}.values()))


def assign(
    runs: list[Run], experiments: dict[Key, dict]
) -> tuple[dict[Key, list[Run]], list[OtherRun]]:
    """Returns the runs of each experiment, one for each seed, and all other runs.

    A run belongs to an experiment if it followed the same protocol on the official data.

    Args:
      experiments: the flat config of each experiment.
    """
    matched: dict[Key, list[Run]] = {key: [] for key in experiments}
    others: list[OtherRun] = []
    known: dict[str, tuple[Key, list[str]]] = {}
    for run in runs:
        same = repr([_protocol_and_model(run.config), run.result.get("official_data")])
        if same not in known:
            differing = {key: differences(run, config) for key, config in experiments.items()}
            known[same] = min(differing.items(), key=lambda item: len(item[1]))
        nearest, phrases = known[same]
        seeds = [match.result["seed"] for match in matched[nearest]]
        if phrases:
            others.append(OtherRun(run, phrases))
        elif run.result["seed"] in seeds:
            others.append(OtherRun(run, [f"seed {run.result['seed']} a second time"]))
        else:
            matched[nearest].append(run)
    return matched, others


def _protocol_and_model(config: dict) -> list[tuple[str, object]]:
    """Returns the entries of a flat config that `differences` may compare."""
    return [(key, value) for key, value in config.items() if key not in NOT_PROTOCOL]


def differences(run: Run, paper: dict) -> list[str]:
    """Returns a phrase for each departure of `run` from the protocol of the flat config `paper`."""
    ignored = _not_protocol(paper["report"])
    phrases = [
        f"{key} {run.config[key]} instead of {value}"
        for key, value in ({key: paper[key] for key in _FIRST} | paper).items()
        if key not in ignored and run.config[key] != value
    ]
    if not run.result.get("official_data"):
        phrases.append("not the official data")
    return phrases
