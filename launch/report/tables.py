"""Builds Tables 2 and 3 of the CVPR paper from published errors and from runs."""

import csv
from pathlib import Path
from typing import NamedTuple

from densenet_jax.errors import counted
from densenet_jax.train.config import flatten
from experiments import published
from launch import command
from launch.report.runs import (
    Measured,
    OtherRun,
    Run,
    assign,
    below_a_table,
    in_a_cell,
    network_name,
)

CONFIGS = Path(published.__file__).parent / "cvpr2017"


class Cell(NamedTuple):
    """A published error in percent, the mark after it, and the measured errors."""

    published: float
    mark: str
    measured: Measured

    @property
    def difference(self) -> float | None:
        """The measured mean minus the published error; None without a measurement."""
        mean = self.measured.mean
        return None if mean is None else mean - self.published

    def measured_text(self) -> str:
        """Returns for example "4.61 ± 0.08 (+0.10, 3 seeds)"."""
        seeds = len(self.measured.errors)
        if not seeds:
            return str(self.measured)
        return f"{self.measured} ({self.difference:+.2f}, {counted(seeds, 'seed')})"


class Row(NamedTuple):
    """A network of a table.

    Attributes:
      params: the number of parameters as published.
      counted: the exact number of parameters.
    """

    key: str
    method: str
    depth: int | None
    params: str
    counted: int
    cells: dict[str, Cell]


class Table(NamedTuple):
    """A table of the paper.

    Attributes:
      columns: the heading of each column.
      notes: explain the marks.
      others: runs that reproduce no cell.
    """

    name: str
    title: str
    columns: dict[str, str]
    rows: list[Row]
    notes: list[str]
    others: list[OtherRun]


def table2(runs: list[Run]) -> Table:
    """Builds Table 2."""
    columns = {column: column.upper() for column in published.COLUMNS}
    experiments = {
        (key, column): flatten(command.load_config(f"{CONFIGS}/table2/{key}.py:{column}"))
        for key, row in published.TABLE2.items()
        for column in row.errors
    }
    matched, others = assign(runs, experiments)
    rows = []
    for key, row in published.TABLE2.items():
        cells = {}
        for column, error in row.errors.items():
            mark = "*" if column in row.rerun else ""
            mark += _suspicion(key, column)
            cells[column] = Cell(error, mark, _measured(matched[key, column]))
        params = f"{row.params or '-'}{_suspicion(key, 'params')}"
        rows.append(Row(key, row.method, row.depth, params, row.counted, cells))
    notes = ["`+`: training images are shifted and flipped."]
    notes += ["`*`: measured by the authors of DenseNet."]
    for (key, column), note in published.SUSPICIOUS.items():
        row = published.TABLE2[key]
        name = f"{row.method}{f', {row.depth} layers' if row.depth else ''}"
        notes.append(f"`†` {name}, {columns.get(column, 'parameters')}: {note}")
    title = "Table 2 of the CVPR paper: test error in % on CIFAR-10, CIFAR-100 and SVHN"
    return Table("table2", title, columns, rows, notes, others)


def table3(runs: list[Run]) -> Table:
    """Builds Table 3."""
    columns = {
        "top1": "top-1",
        "top1_10crop": "top-1, 10 crops",
        "top5": "top-5",
        "top5_10crop": "top-5, 10 crops",
    }
    experiments = {
        key: flatten(command.load_config(f"{CONFIGS}/table3/{key}.py")) for key in published.TABLE3
    }
    matched, others = assign(runs, experiments)
    rows = []
    for key, row in published.TABLE3.items():
        measured = {
            column: _measured(matched[key], result_key)
            for column, result_key in _TABLE3_RESULTS.items()
        }
        cells = {
            column: Cell(error, "", measured.get(column, Measured()))
            for column, error in row.errors.items()
        }
        rows.append(Row(key, row.method, None, "-", published.TABLE1[key].counted, cells))
    notes = [
        f"{row.method} is only in these editions: {', '.join(row.editions)}."
        for row in published.TABLE3.values()
        if len(row.editions) < 3
    ]
    title = "Table 3: error in % on the validation set of ImageNet"
    return Table("table3", title, columns, rows, notes, others)


TABLES = {"table2": table2, "table3": table3}


# The key of a run's result for each column of Table 3.
_TABLE3_RESULTS = {
    "top1": "test_error",
    "top1_10crop": "test_error_10crop",
    "top5": "test_top5_error",
    "top5_10crop": "test_top5_error_10crop",
}


def _measured(runs: list[Run], key: str = "test_error") -> Measured:
    return Measured(tuple(run.result[key] for run in runs if key in run.result))


def _suspicion(key: str, column: str) -> str:
    return "†" if (key, column) in published.SUSPICIOUS else ""


def markdown(table: Table) -> str:
    """Returns the table, its notes, and a list of other runs with the reasons."""
    header = ["method", "depth", "parameters", *table.columns.values()]
    lines = []
    for row in table.rows:
        cells = [row.cells.get(column) for column in table.columns]
        printed = [f"{cell.published:.2f}{cell.mark}" if cell else "" for cell in cells]
        measured = [cell.measured_text() if cell else "" for cell in cells]
        lines.append([row.method, row.depth or "-", row.params, *printed])
        lines.append([f"measured: `{row.key}`", "", f"{row.counted:,}", *measured])
    explanation = (
        "Published numbers; below each, the measured mean ± standard deviation (difference, number "
        "of seeds). Measured parameters are exact counts."
    )
    parts = [f"# {table.title}", explanation, aligned(header, lines)]
    if table.notes:
        parts.append("\n".join(f"* {note}" for note in table.notes))
    if table.others:
        parts += [
            "## Other runs",
            "These runs follow no protocol above, so they are no reproductions.",
        ]
        lines = [_other(other, in_a_cell(other.differences)) for other in table.others]
        parts.append(aligned(list(_OTHER_COLUMNS), lines))
        differences = {f"`{other.run.path}`": other.differences for other in table.others}
        parts += filter(None, [below_a_table(differences)])
    return "\n\n".join(parts) + "\n"


_OTHER_COLUMNS = ("run", "network", "data", "epochs", "seed", "test error %", "nearest protocol")


def _other(other: OtherRun, differences: str) -> list:
    """Returns the line of a run that reproduces no cell."""
    run, result = other.run, other.run.result
    facts = (network_name(run.config), result["data"], result["epochs"], result["seed"])
    return [run.path, *facts, f"{result['test_error']:.2f}", differences]


def aligned(header: list[str], lines: list[list]) -> str:
    """Returns a Markdown table whose source is aligned."""
    rows = [header, *([str(value) for value in line] for line in lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    padded = ([f"{v:{w}}" for v, w in zip(row, widths, strict=True)] for row in rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def write_csv(table: Table, path: Path) -> None:
    """Writes a line for each cell; measured values are empty without a measurement."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "method", "depth", "params_published", "params_counted", "column",
                         "published", "mark", "mean", "std", "seeds", "difference"])  # fmt: skip
        for row in table.rows:
            for column, cell in row.cells.items():
                found = cell.measured
                numbers = (found.mean, found.std, len(found.errors), cell.difference)
                writer.writerow([row.key, row.method, row.depth, row.params, row.counted, column,
                                 cell.published, cell.mark, *numbers])  # fmt: skip


def write_others(table: Table, path: Path) -> None:
    """Writes a line for each run that reproduces no cell, with all its differences."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_OTHER_COLUMNS)
        writer.writerows(_other(other, "; ".join(other.differences)) for other in table.others)
