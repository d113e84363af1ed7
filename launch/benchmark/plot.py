"""Plots memory and time of a training step against depth."""

from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from densenet_jax.analysis.style import COLOURS, MARKERS, save, styled
from experiments.figures import MEMORY_BY_DEPTH


@styled
def plot_memory_and_time(report: dict, directory: Path) -> None:
    """Draws the `results` of a report to memory_and_time.png, .svg and .pdf in `directory`.

    Markers of measured points are filled. Markers of published points are open, with dashed lines.
    """
    figure = Figure(figsize=(12, 4))
    memory, time = figure.subplots(1, 2)
    results = [result for result in report["results"] if "error" not in result]
    names = list(dict.fromkeys(result["contestant"] for result in results))
    for i, name in enumerate(names):
        # The eighth contestant reuses the first colour with the second marker.
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]
        mine = [result for result in results if result["contestant"] == name]
        for axis, key, unit in ((memory, "memory_bytes", 1e9), (time, "step_seconds", 1)):
            points = [(r["depth"], r[key] / unit) for r in mine if r[key] is not None]
            if points:
                axis.plot(*zip(*points, strict=True), color=colour, marker=marker, label=name)
    if report["model"].startswith("densenet_bc_k12_"):
        _plot_published(memory, most=max((result["depth"] for result in results), default=0))
    memory.set(xlabel="depth L (layers)", ylabel="memory (GB)")
    time.set(xlabel="depth L (layers)", ylabel="time of a training step (s)")
    for axis in (memory, time):
        axis.set_ylim(bottom=0)
    figure.legend(*_entries(memory, time), loc="outside right upper")
    network = report["model"].split("_d")[0]  # The depth is on the axis.
    figure.suptitle(
        f"{network}: batch of {report['batch_size']}, {report['dtype']}, remat {report['remat']}"
    )
    save(figure, directory / "memory_and_time")


def _entries(*axes: Axes) -> tuple[list[Artist], list[str]]:
    """Returns handles and labels of one legend for `axes`."""
    entries: dict[str, Artist] = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        entries = dict(zip(labels, handles, strict=True)) | entries
    return list(entries.values()), list(entries)


def _plot_published(axis: Axes, most: int) -> None:
    """Draws the curves of TPAMI Figure 7 up to a depth slightly above `most`."""
    for (name, curve), marker in zip(MEMORY_BY_DEPTH.items(), MARKERS, strict=False):
        points = [(depth, gb) for depth, gb in curve.items() if depth <= most + 30]
        if points:
            axis.plot(
                *zip(*points, strict=True),
                color="0.45",
                linestyle="--",
                linewidth=1,
                marker=marker,
                markerfacecolor="none",
                label=f"{name}, published\n(batch of 64)",
            )
