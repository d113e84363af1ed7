"""Defines figures of several panels and draws them: published markers are open, measured filled."""

import csv
import itertools
from pathlib import Path
from typing import NamedTuple

import matplotlib.figure
from matplotlib.axes import Axes

from densenet_jax.analysis.style import COLOURS, MARKERS, save, styled

PUBLISHED = "As published (open markers), and measured by the same protocol (filled)"


class Mark(NamedTuple):
    """A point of a curve.

    Attributes:
      std: the standard deviation between seeds.
      seeds: the number of seeds; 0 for a published point.
    """

    label: str
    x: float
    y: float
    std: float | None = None
    seeds: int = 0


class Series(NamedTuple):
    """Points that share a name and a line.

    Attributes:
      row: the row of panels to which the series belongs.
      curve: series of the same curve have the same colour and marker.
    """

    row: str
    name: str
    curve: str
    marks: list[Mark]

    @property
    def is_published(self) -> bool:
        return not any(mark.seeds for mark in self.marks)


class Panel(NamedTuple):
    """A column of a figure.

    Attributes:
      x, y: labels of the axes.
      names_points: whether published points have their labels beside them.
      from_zero: whether the y axis starts at 0.
    """

    title: str
    x: str
    y: str
    series: list[Series]
    names_points: bool = False
    from_zero: bool = False


class Figure(NamedTuple):
    """A figure; `name` is its name on the command line and in file names."""

    name: str
    title: str
    panels: list[Panel]

    def rows(self) -> list[str]:
        """Returns the names of the rows, the published one first."""
        found = {series.row for panel in self.panels for series in panel.series}
        return [PUBLISHED, *sorted(found - {PUBLISHED})]

    def looks(self) -> dict[str, tuple[str, str]]:
        """Returns colour and marker of each curve."""
        curves = dict.fromkeys(series.curve for panel in self.panels for series in panel.series)
        looks = itertools.cycle(zip(COLOURS, MARKERS, strict=True))
        return dict(zip(curves, looks, strict=False))


@styled
def draw(figure: Figure, directory: Path) -> None:
    """Draws NAME.png, .svg and .pdf to `directory`, with a row of panels for each protocol."""
    rows, columns = figure.rows(), len(figure.panels)
    width = max(0.6 + 3.9 * columns, 7.0)  # The title needs 7 inches.
    canvas = matplotlib.figure.Figure(figsize=(width, 0.4 + 3.4 * len(rows)))
    parts = canvas.subfigures(len(rows), squeeze=False)[:, 0]
    for row, part in zip(rows, parts, strict=True):
        axes = part.subplots(1, columns, squeeze=False)[0]
        part.suptitle(row, fontsize=9, x=0.01, ha="left", color="0.35")
        for axis, panel in zip(axes, figure.panels, strict=True):
            _draw_panel(axis, panel, [s for s in panel.series if s.row == row], figure.looks())
    canvas.suptitle(figure.title, fontsize=12)
    save(canvas, directory / figure.name)


def _draw_panel(
    axis: Axes, panel: Panel, series: list[Series], looks: dict[str, tuple[str, str]]
) -> None:
    if not series:
        axis.set_axis_off()
        return
    for one in series:
        colour, marker = looks[one.curve]
        is_dense = len(one.marks) > 40  # A curve rather than points.
        axis.errorbar(
            [mark.x for mark in one.marks],
            [mark.y for mark in one.marks],
            yerr=[mark.std or 0 for mark in one.marks] if any(m.std for m in one.marks) else None,
            color=colour,
            marker="" if is_dense else marker,
            markerfacecolor="none" if one.is_published else colour,
            linestyle="--" if one.is_published else "-",
            markersize=5,
            linewidth=1,
            capsize=3,
            label=one.name,
        )
        if panel.names_points and one.is_published:
            for mark in one.marks:
                axis.annotate(mark.label, (mark.x, mark.y), xytext=(4, 4), fontsize=7,
                              textcoords="offset points")  # fmt: skip
    axis.set(xlabel=panel.x, ylabel=panel.y)
    axis.set_title(panel.title, fontsize=10)
    if len(places := {mark.x for one in series for mark in one.marks}) == 1:
        axis.set_xticks(list(places))
    else:
        axis.locator_params(axis="x", nbins=6)
    if panel.from_zero:
        axis.set_ylim(bottom=0)
    axis.legend(fontsize=7.5)


def write_csv(figure: Figure, path: Path) -> None:
    """Writes a line for each point."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["panel", "protocol", "curve", "point", "x", "y", "std", "seeds",
                         "x_is", "y_is"])  # fmt: skip
        for panel in figure.panels:
            for one in panel.series:
                for mark in one.marks:
                    writer.writerow([panel.title, one.row, one.name, mark.label, mark.x, mark.y,
                                     mark.std, mark.seeds, panel.x, panel.y])  # fmt: skip
