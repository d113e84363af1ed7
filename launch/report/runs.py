"""Finds finished runs and matches them with the experiments that they reproduce."""

import dataclasses
import functools
import statistics
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from densenet_jax.analysis.counts import count_macs
from densenet_jax.data import sources
from densenet_jax.errors import InputError, counted
from densenet_jax.files import read_object
from densenet_jax.models.catalog import model_config
from densenet_jax.models.densenet import DenseNetConfig
from densenet_jax.models.labels import network_label
from densenet_jax.models.network import NetworkConfig
from densenet_jax.train.record import RunDirectory
from launch import run_files

# Keys in which runs of the same protocol may differ.
NOT_PROTOCOL = (
    "seed",
    "data.fold",
    "data.directory",
    "data.workers",
    "data.skip_broken",
    "data.ten_crops",
    "eval_batch_size",
    "checkpoint_every_epochs",
    "steps_per_dispatch",
    "deterministic",
    "model.remat",
    "model.block",
)

# Longer lists of differences stand below a table, because they would make its lines unreadable.
_CELL_CHARACTERS = 250

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
    """Errors in percent, one for each seed or for each fold; may be empty."""

    errors: tuple[float, ...] = ()

    @property
    def mean(self) -> float | None:
        """The mean error; None without errors."""
        return statistics.fmean(self.errors) if self.errors else None

    @property
    def std(self) -> float | None:
        """The sample standard deviation; None with fewer than two errors."""
        return statistics.stdev(self.errors) if len(self.errors) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % confidence interval of the mean, by Student's t; None with fewer than two."""
        if self.mean is None or self.std is None:
            return None
        from scipy.special import stdtrit  # SciPy's statistics take a second to import.

        count = len(self.errors)
        half = float(stdtrit(count - 1, 0.975)) * self.std / count**0.5
        return self.mean - half, self.mean + half

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
        same |= dict(block_config=config.blocks, depth=None, span=span, block="auto")
    fields = {field.name for field in dataclasses.fields(config)}
    return dataclasses.replace(config, **{k: v for k, v in same.items() if k in fields})


def network_of(run: Run) -> NetworkConfig:
    """Returns `network` for the network of a run."""
    return _networks(_model(run.config))[1]


def network_name(config: dict) -> str:
    """Returns the label of the network of a flat config, such as "densenet_bc_k4_d22"."""
    return _label(_model(config))


@functools.cache
def _label(model: tuple[tuple[str, object], ...]) -> str:
    settings = dict(model)
    return network_label(str(settings.pop("name")), settings, omitted=["remat", "block"])


def macs(run: Run) -> int:
    """Returns the multiply-adds of a run's network for one image."""
    height, width, channels = _image_shape(run)
    config, _ = _networks(_model(run.config))
    return _count(dataclasses.replace(config, in_channels=channels), height, width)


_count = functools.cache(count_macs)


def _image_shape(run: Run) -> tuple[int, int, int]:
    return sources.image_shape(run.config["data.name"], run.config["data.image_size"])


def _model(config: dict) -> tuple[tuple[str, object], ...]:
    """Returns the settings in the group `model` of a flat config that are not None."""
    return tuple(
        (key.removeprefix("model."), value)
        for key, value in config.items()
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
    """Returns the test errors of runs that differ in seed or fold. The last of equals counts."""
    errors = {
        (run.result["seed"], run.config["data.fold"]): run.result["test_error"] for run in runs
    }
    return Measured(tuple(errors.values()))


def by_fold(runs: list[Run], key: str) -> Measured:
    """Returns the errors called `key` of runs that differ in seed or fold, one for each fold.

    The error of a fold is the mean over its seeds, because seeds add no validation images. The last
    run of a fold and seed counts.
    """
    folds: dict[int, dict[int, float]] = {}
    for run in runs:
        folds.setdefault(run.config["data.fold"], {})[run.result["seed"]] = run.result[key]
    return Measured(tuple(statistics.fmean(seeds.values()) for seeds in folds.values()))


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
            known[same] = min(
                differing.items(),
                key=lambda item: (len(item[1]), _distance(run.config, experiments[item[0]])),
            )
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
    config, ignored = run.config, _not_protocol(paper["report"])
    phrases = {
        key: f"{key} {config[key]} instead of {value}"
        for key, value in paper.items()
        if key not in ignored and not key.startswith("model.") and config[key] != value
    }
    if _distance(config, paper):
        found, expected = network_name(config), network_name(paper)
        phrases["network"] = f"network {found} instead of {expected}"
    # These describe a run best.
    first = [phrases.pop(key) for key in ("data.name", "network", "epochs") if key in phrases]
    official = [] if run.result.get("official_data") else ["not the official data"]
    return [*first, *phrases.values(), *official]


def _distance(config: dict, paper: dict) -> int:
    """Returns the number of settings in which the networks of two flat configs differ."""
    return _settings_between(_model(config), _model(paper))


@functools.cache
def _settings_between(
    model: tuple[tuple[str, object], ...], other: tuple[tuple[str, object], ...]
) -> int:
    kinds, facts = [], []
    for config, reduced in map(_networks, (model, other)):
        # `network` resets these, but a protocol sets them.
        kept = ("num_classes", "in_channels", "bn_group_size")
        same = {key: getattr(config, key) for key in kept if hasattr(config, key)}
        kinds.append(type(config))
        facts.append(dataclasses.asdict(reduced) | same)
    first, second = facts
    count = sum(first.get(key) != second.get(key) for key in first.keys() | second.keys())
    return count + (kinds[0] is not kinds[1])


def hardware(run: Run) -> str:
    """Returns the devices of a run, such as "2 of 2 CPU cores" or "1 x NVIDIA H100 80GB HBM3"."""
    environment = run.environment
    devices = environment["devices"]
    if environment["backend"] != "cpu":
        return f"{len(devices)} x {devices[0]}"
    cores = environment["cpu_count"]
    # Older runs did not record how many cores they could use.
    used = environment.get("usable_cores") or f"up to {cores}"
    return f"{used} of {counted(cores, 'CPU core')}"


def in_a_cell(differences: list[str]) -> str:
    """Returns `differences` for a cell of a table; only their number if the text is long."""
    text = "; ".join(differences)
    count = counted(len(differences), "difference")
    return text if len(text) <= _CELL_CHARACTERS else f"{count}, listed below"


def below_a_table(differences: dict[str, list[str]]) -> str:
    """Returns a Markdown list of the differences that are too long for a cell; may be empty.

    Args:
      differences: the differences of each run, by the name of the run.
    """
    names: dict[str, list[str]] = {}
    for name, phrases in differences.items():
        if in_a_cell(phrases) != (text := "; ".join(phrases)):
            names.setdefault(text, []).append(name)
    return "\n".join(f"* {', '.join(same)}: {text}" for text, same in names.items())
