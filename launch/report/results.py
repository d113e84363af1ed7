"""Writes the record of measured results: one table that names protocol and hardware."""

import csv
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from densenet_jax import pretrained, weight_files, weights
from densenet_jax.errors import InputError, counted
from densenet_jax.models.network import NetworkConfig
from densenet_jax.train.config import flatten
from experiments import published
from launch import command
from launch.report import sweep
from launch.report.runs import (
    Measured,
    Run,
    below_a_table,
    by_seed,
    differences,
    hardware,
    in_a_cell,
    network_name,
    network_of,
    protocol,
)
from launch.report.tables import aligned

BEGIN, END = "<!-- results: written by launch.report -->", "<!-- end of results -->"
_KEPT = ("config.json", "metrics.jsonl", "result.json")  # `keep` edits environment.json.
_EXPERIMENTS = Path(published.__file__).parent / "fashion_mnist"
_COLUMNS = (
    *("record", "network", "parameters", "data", "epochs", "seeds"),
    *("test error %", "published %", "protocol", "hardware"),
)


class Record(NamedTuple):
    """Runs in one directory of the record that differ only in their seeds."""

    directory: str
    runs: list[Run]

    @property
    def measured(self) -> Measured:
        return by_seed(self.runs)


def write(runs: list[Run], root: Path, out: Path, readme: Path | None) -> str:
    """Writes results.md and results.csv to `out`, and a figure for each directory of runs.

    Args:
      runs: the finished runs in `root`.
      readme: a file; the table replaces the text between its markers `BEGIN` and `END`.

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
    # A run directly in `root` is a directory of one run, which needs no figure.
    for directory in sorted({r.directory for r in found if r.runs[0].path.parent != root}):
        same = [run for record in found if record.directory == directory for run in record.runs]
        sweep.write(same, out / directory)
    return text


def keep(runs: list[Run], root: Path, out: Path, with_weights: bool) -> None:
    """Copies the small files of `runs`, which are in `root`, to `out`, for a record.

    Shortens absolute paths in the commands of runs to their last part.

    Args:
      with_weights: also write model.safetensors, the network under PyTorch's names; model.json,
        with which commands read it as that of a run; and README.md, a model card.
    """
    for run in runs:
        directory = out / run.path.relative_to(root)
        directory.mkdir(parents=True, exist_ok=True)
        for name in _KEPT:
            shutil.copyfile(run.path / name, directory / name)
        command = [
            Path(word).name if word.startswith("/") else word for word in run.environment["command"]
        ]
        environment = run.environment | {"command": command}
        (directory / "environment.json").write_text(json.dumps(environment, indent=2) + "\n")
        if with_weights:
            _keep_weights(run.path, directory)


def _keep_weights(run: Path, directory: Path) -> None:
    from launch import export  # Importing Orbax takes half a second.

    network = pretrained.load(run)
    shutil.copyfile(run / "model.json", directory / "model.json")
    weight_files.write(directory / "model.safetensors", weights.to_torch(network))
    title = f"{directory.parent.name}, {directory.name}"
    text = export.card(network, title, str(run), "mit")
    (directory / "README.md").write_text(text, encoding="utf-8")


def records(runs: list[Run], root: Path) -> list[Record]:
    """Groups `runs`, sorted by directory in `root`, then by the size of the network."""
    groups: dict[tuple[str, NetworkConfig, str], list[Run]] = {}
    for run in runs:
        directory = (run.path.relative_to(root).parts or (root.name,))[0]
        same = directory, network_of(run), repr(protocol(run.config))
        groups.setdefault(same, []).append(run)
    found = [Record(directory, group) for (directory, *_), group in groups.items()]
    return sorted(found, key=lambda r: (r.directory, r.runs[0].result["params"], r.runs[0].path))


def markdown(found: list[Record]) -> str:
    """Returns the table of the record, and a list of differences that are too long for a cell."""
    table = aligned(list(_COLUMNS), [_cells(record, in_a_cell) for record in found])
    departures = {
        f"{record.directory}, {network_name(record.runs[0].config)}": _published(record.runs[0])[1]
        for record in found
    }
    return "\n\n".join(filter(None, [table, below_a_table(departures)]))


def replaced(text: str, table: str, path: Path) -> str:
    """Returns `text` with `table` between the markers.

    Raises InputError if a marker is missing in `text`, which is the content of `path`.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise InputError(
            f"{path} has no markers for the table: add the lines {BEGIN!r} and {END!r}"
        )
    return f"{before}{begin}\n\n{table}\n\n{end}{after}"


def _cells(record: Record, joined: Callable[[list[str]], str] = "; ".join) -> list[str]:
    """Returns the line of `record`, in which `joined` writes the departures from the protocol."""
    run = record.runs[0]
    error, departures = _published(run)
    return [
        record.directory,
        network_name(run.config),
        f"{run.result['params']:,}",
        _data(run),
        str(run.result["epochs"]),
        str(len(record.measured.errors)),
        str(record.measured),
        error,
        joined(departures),
        ", ".join(sorted({hardware(run) for run in record.runs})),
    ]


def _data(run: Run) -> str:
    name, examples = run.config["data.name"], run.config["data.examples"]
    return f"{name}, {counted(examples, 'image')}" if examples else name


def _published(run: Run) -> tuple[str, list[str]]:
    """Returns the published error for a run, and how the run departs from that protocol."""
    model = network_name(run.config).partition(",")[0]
    if run.config["data.name"] != "fashion_mnist" or model not in published.FASHION_MNIST:
        return "none", ["none published"]
    departures = differences(run, _experiment(model))
    error = f"{100 * (1 - published.FASHION_MNIST[model]):.1f}"
    return error, departures or ["as published"]


@functools.cache
def _experiment(model: str) -> dict:
    """Returns the flat config of a published result on Fashion-MNIST."""
    file = f"wide_resnet.py:{model}" if model.startswith("wrn") else f"{model}.py"
    return flatten(command.load_config(str(_EXPERIMENTS / file)))
