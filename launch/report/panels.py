"""What figures are made of, and how they are drawn: open markers are published, filled measured."""

import csv
import itertools
from pathlib import Path
from typing import NamedTuple

import matplotlib.figure

from densenet_jax.analysis.style import COLOURS, MARKERS, save, styled

PUBLISHED = "As published (open markers), and measured by the same protocol (filled)"


class Mark(NamedTuple):
    """A point; `seeds` is 0 if it is published, `std` the deviation between seeds."""

    label: str
    x: float
    y: float
    std: float | None = None
    seeds: int = 0


class Series(NamedTuple):
    """Points of one name, in the row of panels `row`; of one `curve` all look alike."""

    row: str
    name: str
    curve: str
    marks: list[Mark]

    @property
    def is_published(self) -> bool:
        return not any(mark.seeds for mark in self.marks)


class Panel(NamedTuple):
    """A column of a figure, and what its axes show.

    `names_points` writes their labels beside published points, `from_zero` begins y with 0.
    """

    title: str
    x: str
    y: str
    series: list[Series]
    names_points: bool = False
    from_zero: bool = False


class Figure(NamedTuple):
    """A figure, and the name under which it is reported."""

    name: str
    title: str
    panels: list[Panel]

    def rows(self) -> list[str]:
        """What is published first, then what was measured."""
        found = {series.row for panel in self.panels for series in panel.series}
        return [PUBLISHED, *sorted(found - {PUBLISHED})]

    def looks(self) -> dict[str, tuple[str, str]]:
        """Colour and marker of each curve."""
        curves = dict.fromkeys(series.curve for panel in self.panels for series in panel.series)
        looks = itertools.cycle(zip(COLOURS, MARKERS, strict=True))
        return dict(zip(curves, looks, strict=False))


@styled
def draw(figure: Figure, folder: Path) -> None:
    """Draws NAME.png, .svg and .pdf to `folder`: a row of panels for each protocol."""
    rows, columns = figure.rows(), len(figure.panels)
    width = max(0.6 + 3.9 * columns, 7.0)  # Room for the title.
    canvas = matplotlib.figure.Figure(figsize=(width, 0.4 + 3.4 * len(rows)))
    parts = canvas.subfigures(len(rows), squeeze=False)[:, 0]
    for row, part in zip(rows, parts, strict=True):
        axes = part.subplots(1, columns, squeeze=False)[0]
        part.suptitle(row, fontsize=9, x=0.01, ha="left", color="0.35")
        for axis, panel in zip(axes, figure.panels, strict=True):
            _draw_panel(axis, panel, [s for s in panel.series if s.row == row], figure.looks())
    canvas.suptitle(figure.title, fontsize=12)
    save(canvas, folder / figure.name)


def _draw_panel(axis, panel: Panel, series: list[Series], looks: dict) -> None:
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
    """A line for each point."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["panel", "protocol", "curve", "point", "x", "y", "std", "seeds",
                         "x_is", "y_is"])  # fmt: skip
        for panel in figure.panels:
            for one in panel.series:
                for mark in one.marks:
                    writer.writerow([panel.title, one.row, one.name, mark.label, mark.x, mark.y,
                                     mark.std, mark.seeds, panel.x, panel.y])  # fmt: skip
