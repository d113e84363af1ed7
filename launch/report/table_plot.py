"""Plots a table: a row of dots for each network."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from densenet_jax.analysis.style import COLOURS, save, styled
from launch.report.tables import Cell, Table

_PUBLISHED, _MEASURED = "0.35", COLOURS[1]


@styled
def plot_table(table: Table, directory: Path) -> None:
    """Draws NAME.png, .svg and .pdf: published errors are open dots, measured ones filled."""
    figure = Figure(figsize=(4 + 2 * len(table.columns), 1.6 + 0.3 * len(table.rows)))
    axes = figure.subplots(1, len(table.columns), sharey=True)
    for axis, (column, heading) in zip(axes, table.columns.items(), strict=True):
        for height, row in enumerate(table.rows):
            if column in row.cells:
                _plot_cell(axis, height, row.cells[column])
        axis.set(title=heading, xlabel="error (%)")
    depths = [f", {row.depth} layers" if row.depth else "" for row in table.rows]
    names = [row.method + depth for row, depth in zip(table.rows, depths, strict=True)]
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    entries = [
        axes[0].plot([], [], "o", color=_PUBLISHED, markerfacecolor="none")[0],
        axes[0].plot([], [], "o", color=_MEASURED)[0],
    ]
    labels = ["published", "measured, with the standard deviation between seeds"]
    figure.legend(entries, labels, loc="outside lower right", ncols=2)
    figure.suptitle(table.title)
    save(figure, directory / table.name)


def _plot_cell(axis: Axes, height: int, cell: Cell) -> None:
    axis.plot(cell.published, height, "o", color=_PUBLISHED, markerfacecolor="none")
    mean, std = cell.measured.mean, cell.measured.std
    if mean is not None:
        axis.errorbar(mean, height, xerr=std, fmt="o", color=_MEASURED, markersize=4, capsize=3)
