"""What came of a sweep: error against parameters and multiply-adds, for each swept setting."""

import csv
import statistics
from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")  # No window: pictures go to files.

import matplotlib.pyplot as plt

from densenet_jax.analysis.counts import count_macs
from densenet_jax.data import sources
from densenet_jax.models.catalog import model_config
from densenet_jax.train.config import base_config, flatten, model_settings
from launch.report.runs import NOT_PROTOCOL, Run
from launch.report.tables import aligned

# Okabe and Ito's, which colour-blind people can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"


class Setting(NamedTuple):
    """A point of a sweep: the values of the swept keys, and the errors of its seeds, in percent."""

    values: tuple
    params: int
    macs: int
    errors: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.errors)

    @property
    def std(self) -> float | None:
        return statistics.stdev(self.errors) if len(self.errors) > 1 else None


def write(runs: list[Run], folder: Path) -> str:
    """Writes sweep.md, .csv, .png and .svg to `folder`; returns the table."""
    keys, settings = gather(runs)
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(keys, settings)
    (folder / "sweep.md").write_text(text)
    write_csv(keys, settings, folder / "sweep.csv")
    plot(keys, settings, folder)
    return text


def gather(runs: list[Run]) -> tuple[list[str], list[Setting]]:
    """The keys in which the protocols of `runs` differ, and a setting for each of their values."""
    defaults = flatten(base_config())
    configs = [defaults | run.config for run in runs]
    keys = [
        key for key in defaults
        if key not in NOT_PROTOCOL and len({repr(config[key]) for config in configs}) > 1
    ]  # fmt: skip
    groups = {}
    for run, config in zip(runs, configs, strict=True):
        groups.setdefault(tuple(config[key] for key in keys), []).append(run)
    settings = [
        Setting(values, same[0].result["params"], _macs(same[0]), _errors(same))
        for values, same in groups.items()
    ]
    return keys, sorted(settings, key=lambda setting: [_order(v) for v in setting.values])


def _errors(runs: list[Run]) -> tuple[float, ...]:
    """One for each seed."""
    return tuple({run.result["seed"]: run.result["test_error"] for run in runs}.values())


def _order(value) -> tuple:
    """Sorts numbers by size, tuples by their sum, and all else by how it is written."""
    if isinstance(value, tuple) and all(isinstance(number, int) for number in value):
        return (1, sum(value), "")
    return (0, value, "") if isinstance(value, int | float) else (2, 0, repr(value))


def _macs(run: Run) -> int:
    config = base_config()
    known = flatten(config)
    config.update_from_flattened_dict({k: v for k, v in run.config.items() if k in known})
    height, width, channels = sources.image_shape(config.data.name)
    network = model_config(config.model.name, **{"in_channels": channels} | model_settings(config))
    return count_macs(network, height, width)


def markdown(keys: list[str], settings: list[Setting]) -> str:
    names = [_short(key) for key in keys]
    lines = []
    for s in settings:
        deviation = "" if s.std is None else f" ± {s.std:.2f}"
        error = f"{s.mean:.2f}{deviation}"
        numbers = [f"{s.params:,}", f"{s.macs / 1e6:,.1f}", error, len(s.errors)]
        lines.append([*map(_text, s.values), *numbers])
    header = [*names, "parameters", "multiply-adds, M", "test error %", "seeds"]
    what = f"by {' and '.join(names)}" if names else "of one setting"
    return f"# Sweep {what}\n\n{aligned(header, lines)}\n"


def write_csv(keys: list[str], settings: list[Setting], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*keys, "params", "macs", "mean", "std", "seeds"])
        for s in settings:
            writer.writerow([*s.values, s.params, s.macs, s.mean, s.std, len(s.errors)])


def plot(keys: list[str], settings: list[Setting], folder: Path) -> None:
    """Draws sweep.png and sweep.svg: a line for each value of all swept keys but the last."""
    figure, axes = plt.subplots(1, 2, sharey=True, figsize=(10, 4), layout="constrained")
    lines = {}
    for setting in settings:
        lines.setdefault(setting.values[:-1], []).append(setting)
    for i, (values, line) in enumerate(lines.items()):
        label = ", ".join(
            f"{_short(key)} {_text(value)}" for key, value in zip(keys, values, strict=False)
        )
        for axis, size in zip(axes, ("params", "macs"), strict=True):
            axis.errorbar(
                [getattr(s, size) / 1e6 for s in line],
                [s.mean for s in line],
                yerr=[s.std or 0 for s in line],
                color=_COLOURS[i % len(_COLOURS)],
                marker=_MARKERS[i % len(_MARKERS)],
                capsize=3,
                label=label,
            )
            for s in line:
                if s.values:
                    axis.annotate(
                        _text(s.values[-1]),
                        (getattr(s, size) / 1e6, s.mean),
                        xytext=(4, 4),
                        textcoords="offset points",
                        fontsize=7,
                    )
    for axis, label in zip(axes, ("parameters (million)", "multiply-adds (million)"), strict=True):
        axis.set(xlabel=label)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set(ylabel="test error (%)")
    if len(keys) > 1:
        axes[1].legend(frameon=False, fontsize=8)
    if keys:
        figure.suptitle(f"Test error; beside the points: {_short(keys[-1])}")
    for suffix in ("png", "svg"):
        figure.savefig(folder / f"sweep.{suffix}", dpi=150)
    plt.close(figure)


def _short(key: str) -> str:
    return key.rpartition(".")[2].replace("_", " ")


def _text(value) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
