"""Reports snapshot ensembles: the errors of runs with several cycles beside the published ones."""

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
from launch.report.tables import Cell, aligned

_CONFIGS = Path(published.__file__).parent / "snapshots"
_ENSEMBLE = "ensemble_test_error"
_COLUMNS = ("network", "column", "published ensemble", "last snapshot", "ensemble")
_OTHER_COLUMNS = ("run", "network", "data", "cycles", "epochs", "test error %", "ensemble %",
                  "nearest protocol")  # fmt: skip


class Row(NamedTuple):
    """A published ensemble, with the measured errors of the last snapshot and of the ensemble."""

    model: str
    column: str
    last: Measured
    ensemble: Cell


def write(runs: list[Run], directory: Path) -> str:
    """Writes snapshots.md and .csv to `directory`, prints the table, and returns a summary."""
    rows, others = _gather([run for run in runs if _ENSEMBLE in run.result])
    text = _markdown(rows, others)
    (directory / "snapshots.md").write_text(text, encoding="utf-8")
    with (directory / "snapshots.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "column", "published", "last_mean", "last_std", "ensemble_mean",
                         "ensemble_std", "seeds", "difference"])  # fmt: skip
        for row in rows:
            last, found = row.last, row.ensemble.measured
            numbers = (last.mean, last.std, found.mean, found.std, len(found.errors))
            writer.writerow(
                [row.model, row.column, row.ensemble.published, *numbers, row.ensemble.difference]
            )
    print(text)
    measured = sum(bool(row.last.errors) for row in rows)
    return (
        f"{measured} of {counted(len(rows), 'ensemble')} measured, "
        f"{counted(len(others), 'other run')}"
    )


def _gather(runs: list[Run]) -> tuple[list[Row], list[OtherRun]]:
    """Returns a row for each published ensemble, and the runs that reproduce none."""
    errors = {
        (model, column): error
        for model, columns in published.SNAPSHOTS.items()
        for column, error in columns.items()
    }
    experiments = {
        (model, column): flatten(command.load_config(f"{_CONFIGS}/{model}.py:{column}"))
        for model, column in errors
    }
    matched, others = assign(runs, experiments)
    rows = []
    for (model, column), error in errors.items():
        last, ensemble = (
            Measured(tuple(run.result[key] for run in matched[model, column]))
            for key in ("test_error", _ENSEMBLE)
        )
        rows.append(Row(model, column, last, Cell(error, "", ensemble)))
    return rows, others


def _markdown(rows: list[Row], others: list[OtherRun]) -> str:
    lines = [
        [f"`{row.model}`", row.column, f"{row.ensemble.published:.2f}", str(row.last),
         row.ensemble.measured_text()]
        for row in rows
    ]  # fmt: skip
    explanation = (
        "Test error in % of the ensemble as published, then the measured means ± standard "
        "deviations (difference, number of seeds)."
    )
    parts = ["# Snapshot ensembles on CIFAR", explanation, aligned(list(_COLUMNS), lines)]
    if others:
        parts += ["## Other runs", "These runs follow no protocol above."]
        parts.append(aligned(list(_OTHER_COLUMNS), [_other(other) for other in others]))
        differences = {f"`{other.run.path}`": other.differences for other in others}
        parts += filter(None, [below_a_table(differences)])
    return "\n\n".join(parts) + "\n"


def _other(other: OtherRun) -> list:
    """Returns the line of a run that reproduces no published ensemble."""
    run, result = other.run, other.run.result
    facts = (network_name(run.config), result["data"], run.config["learning_rate_cycles"])
    errors = (f"{result[key]:.2f}" for key in ("test_error", _ENSEMBLE))
    return [run.path, *facts, result["epochs"], *errors, in_a_cell(other.differences)]
