"""Finished runs, and which of them reproduce an experiment."""

import dataclasses
import functools
import statistics
from collections.abc import Hashable
from pathlib import Path
from typing import NamedTuple, TypeVar

from densenet_jax.analysis.counts import count_macs
from densenet_jax.data import sources
from densenet_jax.errors import InputError
from densenet_jax.files import read_object
from densenet_jax.models.catalog import model_config
from densenet_jax.models.densenet import DenseNetConfig
from densenet_jax.models.network import NetworkConfig
from densenet_jax.train.record import RunDirectory
from launch import stored

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
    """A finished run.

    Attributes:
      path: of its directory.
      config: flat, as {"model.name": ..., ...}.
      result: as in result.json.
      environment: as in environment.json.
    """

    path: Path
    config: dict
    result: dict
    environment: dict


class Found(NamedTuple):
    """The runs in a directory.

    Attributes:
      finished: the runs to report.
      unfinished: paths of those that have no result yet.
      broken: a sentence for each run that cannot be read.
    """

    finished: list[Run]
    unfinished: list[Path]
    broken: list[str]


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


def find_runs(folder: Path) -> Found:
    """Finds the runs anywhere in `folder`. Raises InputError if there is no such folder."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: name one that holds run directories.")
    found = Found([], [], [])
    for path in sorted(file.parent for file in stored.find_files(folder, "environment.json")):
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
    """Reads a run, or None if it is not finished. Raises InputError if a file is damaged."""
    result = RunDirectory(path).result()
    if result is None:
        return None
    config, environment = stored.flat_config(path), read_object(path / "environment.json")
    if config is None or environment is None:
        missing = "config.json" if config is None else "environment.json"
        raise InputError(f"{path} is no run directory: it has no {missing}.")
    run = Run(path, config, result, environment)
    try:
        network_of(run)
    except InputError as error:
        raise InputError(
            f"{path / 'config.json'} is damaged ({error}): restore or remove it"
        ) from error
    return run


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
    return _networks(_model(run))[1]


def macs(run: Run) -> int:
    """Multiply-adds for one of the run's images."""
    height, width, channels = _image_shape(run)
    config, _ = _networks(_model(run))
    return _count(dataclasses.replace(config, in_channels=channels), height, width)


_count = functools.cache(count_macs)


def _image_shape(run: Run) -> tuple[int, int, int]:
    return sources.image_shape(run.config["data.name"], run.config["data.image_size"])


def _model(run: Run) -> tuple[tuple[str, object], ...]:
    """The group `model` of a run's config, without what is unset."""
    return tuple(
        (key.removeprefix("model."), value)
        for key, value in run.config.items()
        if key.startswith("model.") and value is not None
    )


@functools.cache
def _networks(model: tuple[tuple[str, object], ...]) -> tuple[NetworkConfig, NetworkConfig]:
    """The config of a network, and what `network` makes of it."""
    settings = dict(model)
    config = model_config(str(settings.pop("name", None)), **settings)
    return config, network(config)


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
    runs: list[Run], experiments: dict[Key, dict]
) -> tuple[dict[Key, list[Run]], list[OtherRun]]:
    """The runs of each experiment, one for each seed, and all others.

    A run belongs to an experiment if it followed the very protocol, on the official data.

    Args:
      experiments: their flat configs.
    """
    matched = {key: [] for key in experiments}
    others, known = [], {}
    for run in runs:
        same = repr([_protocol_and_model(run.config), run.result.get("official_data")])
        if same not in known:
            differing = {key: differences(run, wanted) for key, wanted in experiments.items()}
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
    """The values of a flat config that `differences` may look at."""
    return [(key, value) for key, value in config.items() if key not in NOT_PROTOCOL]


def differences(run: Run, wanted: dict) -> list[str]:
    """How `run` departs from the protocol of the flat config `wanted`; a phrase for each."""
    ignored = _not_protocol(wanted["report"])
    phrases = [
        f"{key} {run.config[key]} instead of {value}"
        for key, value in ({key: wanted[key] for key in _FIRST} | wanted).items()
        if key not in ignored and run.config[key] != value
    ]
    if not run.result.get("official_data"):
        phrases.append("not the official data")
    return phrases
