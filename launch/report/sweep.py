"""Reports a sweep: error against parameters and multiply-adds, for each point."""

import csv
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from densenet_jax.analysis.style import COLOURS, MARKERS, save, styled
from densenet_jax.train.config import defaults
from launch.report.runs import NOT_PROTOCOL, Measured, Run, by_fold, by_seed, macs, network_name
from launch.report.tables import aligned

_NAME = "model.name"
_FOLD_COLUMNS = (
    *("low", "high", "validation_mean", "validation_std", "validation_low", "validation_high"),
    *("folds_done", "folds"),
)


class Setting(NamedTuple):
    """A point of a sweep, over all its seeds and folds.

    Attributes:
      values: the values of the swept keys.
      network: the label of the network.
      measured: the test errors: of each seed or, with folds, of each fold.
      seeds: number of seeds.
      validation: the validation error of each fold; empty without folds.
      folds: number of folds of the data; 0 without folds.
    """

    values: tuple
    network: str
    params: int
    macs: int
    measured: Measured
    seeds: int
    validation: Measured = Measured()
    folds: int = 0

    @property
    def done(self) -> str:
        """The number of finished folds, such as "4 of 5"."""
        return f"{len(self.validation.errors)} of {self.folds}" if self.folds else "none"


def write(runs: list[Run], directory: Path) -> str:
    """Writes sweep.md, .csv, .png, .svg and .pdf to `directory`; returns the table."""
    keys, settings = gather(runs)
    directory.mkdir(parents=True, exist_ok=True)
    text = f"# {_title(keys, runs)}\n\n{markdown(keys, settings)}\n"
    (directory / "sweep.md").write_text(text, encoding="utf-8")
    write_csv(keys, settings, directory / "sweep.csv")
    plot(keys, settings, directory)
    return text


def gather(runs: list[Run]) -> tuple[list[str], list[Setting]]:
    """Returns the keys in which `runs` differ, and a setting for each combination of values."""
    keys = [
        key
        for key in defaults()
        if key not in NOT_PROTOCOL and len({repr(run.config[key]) for run in runs}) > 1
    ]
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        groups.setdefault(tuple(run.config[key] for key in keys), []).append(run)
    settings = [_setting(values, same) for values, same in groups.items()]
    return keys, sorted(settings, key=lambda setting: [_order(v) for v in setting.values])


def _setting(values: tuple, runs: list[Run]) -> Setting:
    first, seeds = runs[0], len({run.result["seed"] for run in runs})
    size = network_name(first.config), first.result["params"], macs(first)
    if folds := first.config["data.folds"]:
        test, validation = (by_fold(runs, f"{part}_error") for part in ("test", "validation"))
        return Setting(values, *size, test, seeds, validation, folds)
    return Setting(values, *size, by_seed(runs), seeds)


def _order(value: object) -> tuple:
    """Returns a sort key: numbers sort by size, tuples by their sum, other values by their text."""
    if isinstance(value, tuple) and all(isinstance(number, int) for number in value):
        return (1, sum(value), "")
    return (0, value, "") if isinstance(value, int | float) else (2, 0, repr(value))


def markdown(keys: list[str], settings: list[Setting]) -> str:
    """Returns the table, one line for each setting. Folds add the validation error."""
    folded = any(s.folds for s in settings)
    shown = [i for i, key in enumerate(keys) if key != _NAME]  # The network has a column.
    names = [_short(keys[i]) for i in shown]
    lines = []
    for s in settings:
        sizes = [f"{s.params:,}", f"{s.macs / 1e6:,.1f}"]
        values = [_text(s.values[i]) for i in shown]
        errors = [str(s.measured)]
        if folded:
            errors = [_with_interval(s.validation), _with_interval(s.measured), s.done]
        lines.append([s.network, *values, *sizes, *errors, s.seeds])
    errors = ["test error %"]
    if folded:
        errors = [f"{part} error % (95 % interval)" for part in ("validation", "test")] + ["folds"]
    header = ["network", *names, "parameters", "multiply-adds, M", *errors, "seeds"]
    return aligned(header, lines)


def _with_interval(measured: Measured) -> str:
    """Returns the mean with its 95 % interval: "1.53 (1.02 to 2.04)"."""
    if not measured.errors:
        return "none"
    low_high = "" if measured.interval is None else " ({:.2f} to {:.2f})".format(*measured.interval)
    return f"{measured.mean:.2f}{low_high}"


def write_csv(keys: list[str], settings: list[Setting], path: Path) -> None:
    """Writes a line for each setting. Folds add columns."""
    folded = any(s.folds for s in settings)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["network", *keys, "params", "macs", "mean", "std", "seeds"]
                        + list(_FOLD_COLUMNS) * folded)  # fmt: skip
        for s in settings:
            found = (s.measured.mean, s.measured.std, s.seeds)
            folds = (
                *(s.measured.interval or (None, None)),
                *(s.validation.mean, s.validation.std, *(s.validation.interval or (None, None))),
                *(len(s.validation.errors), s.folds),
            )
            writer.writerow([s.network, *s.values, s.params, s.macs, *found, *folds * folded])


@styled
def plot(keys: list[str], settings: list[Setting], directory: Path) -> None:
    """Draws sweep.png, .svg and .pdf: points along a line differ in the last swept key only."""
    figure = Figure(figsize=(10, 4))
    axes = figure.subplots(1, 2, sharey=True)
    lines: dict[tuple, list[Setting]] = {}
    for setting in settings:
        lines.setdefault(setting.values[:-1], []).append(setting)
    for i, (values, line) in enumerate(lines.items()):
        label = ", ".join(
            _networks(line) if key == _NAME else f"{_short(key)} {_text(value)}"
            for key, value in zip(keys, values, strict=False)
        )
        for axis, size in zip(axes, ("params", "macs"), strict=True):
            axis.errorbar(
                [getattr(s, size) / 1e6 for s in line],
                [s.measured.mean for s in line],
                yerr=[s.measured.std or 0 for s in line],
                color=COLOURS[i % len(COLOURS)],
                marker=MARKERS[i % len(MARKERS)],
                capsize=3,
                label=label,
            )
            for s in line:
                if s.values:
                    axis.annotate(
                        s.network if keys[-1] == _NAME else _text(s.values[-1]),
                        (getattr(s, size) / 1e6, s.measured.mean),
                        xytext=(4, 4),
                        textcoords="offset points",
                        fontsize=7,
                    )
    for axis, label in zip(axes, ("parameters (million)", "multiply-adds (million)"), strict=True):
        axis.set(xlabel=label)
    axes[0].set(ylabel="test error (%)")
    if len(keys) > 1:
        axes[1].legend(fontsize=8)
    if keys:
        figure.suptitle(f"Test error; label of each point: {_short(keys[-1])}")
    save(figure, directory / "sweep")


def _networks(line: list[Setting]) -> str:
    """Returns the network of a line, or the first and the last network."""
    ends = dict.fromkeys((line[0].network, line[-1].network))
    return " to ".join(ends)


def _title(keys: list[str], runs: list[Run]) -> str:
    """Returns a title that names `keys`; without any, the other keys in which `runs` differ."""
    others = [key for key in NOT_PROTOCOL if len({repr(run.config[key]) for run in runs}) > 1]
    names = [_short(key) for key in keys or others]
    if not names:
        return "Runs of one setting"
    *first, last = names
    return f"Sweep over {', '.join(first)} and {last}" if first else f"Sweep over {last}"


def _short(key: str) -> str:
    """Returns the last part of a key, such as "growth rate" for model.growth_rate."""
    return "network" if key == _NAME else key.rpartition(".")[2].replace("_", " ")


def _text(value: object) -> str:
    return "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
