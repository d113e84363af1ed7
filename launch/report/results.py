"""The record: what was measured, in one table that names what each number rests on."""

import csv
import functools
import json
import shutil
from pathlib import Path
from typing import NamedTuple

from densenet_jax.errors import InputError, counted
from densenet_jax.train.config import flatten
from experiments import published
from launch import command
from launch.report import sweep
from launch.report.runs import Measured, Run, by_seed, differences, network_of, protocol
from launch.report.tables import aligned

BEGIN, END = "<!-- results: written by launch.report -->", "<!-- end of results -->"
_KEPT = ("config.json", "metrics.jsonl", "result.json")  # And environment.json.
_EXPERIMENTS = Path(published.__file__).parent / "fashion_mnist"
_COLUMNS = (
    *("record", "network", "parameters", "data", "epochs", "seeds"),
    *("test error %", "published %", "protocol", "hardware"),
)


class Record(NamedTuple):
    """Runs in one folder of the record that differ in nothing but their seeds."""

    folder: str
    runs: list[Run]

    @property
    def measured(self) -> Measured:
        return by_seed(self.runs)


def write(runs: list[Run], root: Path, out: Path, readme: Path | None) -> str:
    """Writes results.md and results.csv to `out`, and a figure for each folder of several runs.

    Args:
      runs: those in `root`.
      readme: a file in which to replace what stands between `BEGIN` and `END` by the table.

    Returns the table.
    """
    found = records(runs, root)
    text = markdown(found)
    if readme:
        replacement = replaced(readme.read_text(encoding="utf-8"), text, readme)
        readme.write_text(replacement, encoding="utf-8")
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.md").write_text(text + "\n", encoding="utf-8")
    with (out / "results.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([_COLUMNS, *map(_cells, found)])
    # A run that is itself in `root` has no others to be compared with.
    for folder in sorted({r.folder for r in found if r.runs[0].path.parent != root}):
        same = [run for record in found if record.folder == folder for run in record.runs]
        sweep.write(same, out / folder)
    return text


def keep(runs: list[Run], root: Path, out: Path) -> None:
    """Copies what is small of `runs`, which are in `root`, to `out`, for a record.

    Of folders that their commands name, only the last part of the name is kept.
    """
    for run in runs:
        folder = out / run.path.relative_to(root)
        folder.mkdir(parents=True, exist_ok=True)
        for name in _KEPT:
            shutil.copyfile(run.path / name, folder / name)
        command = [
            Path(word).name if word.startswith("/") else word for word in run.environment["command"]
        ]
        environment = run.environment | {"command": command}
        (folder / "environment.json").write_text(json.dumps(environment, indent=2) + "\n")


def records(runs: list[Run], root: Path) -> list[Record]:
    """By folder in `root`, and in it from the smallest network to the largest."""
    groups = {}
    for run in runs:
        folder = (run.path.relative_to(root).parts or (root.name,))[0]
        same = folder, network_of(run), repr(protocol(run.config))
        groups.setdefault(same, []).append(run)
    found = [Record(folder, group) for (folder, *_), group in groups.items()]
    return sorted(found, key=lambda r: (r.folder, r.runs[0].result["params"], r.runs[0].path))


def markdown(found: list[Record]) -> str:
    return aligned(list(_COLUMNS), [_cells(record) for record in found])


def replaced(text: str, table: str, path: Path) -> str:
    """`text` with `table` between the marks. Raises InputError if they are not there."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise InputError(f"{path} has no place for the table: lines {BEGIN} and {END}.")
    return f"{before}{begin}\n\n{table}\n\n{end}{after}"


def _cells(record: Record) -> list[str]:
    run = record.runs[0]
    error, departures = _published(run)
    return [
        record.folder,
        _network(run),
        f"{run.result['params']:,}",
        _data(run),
        str(run.result["epochs"]),
        str(len(record.measured.errors)),
        str(record.measured),
        error,
        departures,
        ", ".join(sorted({_hardware(run) for run in record.runs})),
    ]


def _network(run: Run) -> str:
    """Its name, and what was changed of it."""
    changes = {
        key.removeprefix("model."): value
        for key, value in run.config.items()
        if key.startswith("model.") and key != "model.name" and value is not None
    }
    return ", ".join([run.config["model.name"], *(f"{k} {v}" for k, v in changes.items())])


def _data(run: Run) -> str:
    name, examples = run.config["data.name"], run.config["data.examples"]
    return f"{name}, {counted(examples, 'image')}" if examples else name


def _published(run: Run) -> tuple[str, str]:
    """The published error of the run's network on its data, and how the run came by its own."""
    model = run.config["model.name"]
    if run.config["data.name"] != "fashion_mnist" or model not in published.FASHION_MNIST:
        return "none", "none published"
    departures = differences(run, _experiment(model))
    error = f"{100 * (1 - published.FASHION_MNIST[model]):.1f}"
    return error, "; ".join(departures) or "as published"


@functools.cache
def _experiment(model: str) -> dict:
    """The flat config by which a published network was trained."""
    file = f"wide_resnet.py:{model}" if model.startswith("wrn") else f"{model}.py"
    return flatten(command.load_config(str(_EXPERIMENTS / file)))


def _hardware(run: Run) -> str:
    found = run.environment
    devices = found["devices"]
    if found["backend"] == "cpu":
        used = found.get("usable_cores")  # Older runs do not tell.
        return f"{f'{used} of ' if used else ''}{counted(found['cpu_count'], 'CPU core')}"
    return f"{len(devices)} x {devices[0]}"
