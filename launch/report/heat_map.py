"""Builds Figure 6 from checkpoints of runs: the mean weight of every layer on every source."""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure, FigureBase

from densenet_jax.analysis.feature_reuse import heat_maps, rescale
from densenet_jax.analysis.style import save, styled
from densenet_jax.errors import InputError
from densenet_jax.models.catalog import model_config
from densenet_jax.train.saved_network import load_network
from experiments.figures import HEAT_MAPS
from experiments.sweeps import forms
from launch.report.figures import row_of
from launch.report.panels import PUBLISHED
from launch.report.runs import Run, network, network_name, network_of

LAST = ("transition 1", "transition 2", "classifier")
_MODEL = "densenet_k12_d40"


class HeatMaps(NamedTuple):
    """A row of the figure.

    Attributes:
      blocks: the rescaled array of each block, see `heat_maps`; NaN: unknown.
    """

    row: str
    blocks: list[np.ndarray]


def fig6(runs: list[Run]) -> tuple[list[HeatMaps], list[str]]:
    """Builds the rows of the figure.

    Returns the legible entries of the published figure, followed by the entries of each run that
    trained its network; and a sentence for each other run.
    """
    readers = 13
    known = [np.full((readers, readers), np.nan) for _ in HEAT_MAPS]
    for block, entries in zip(known, HEAT_MAPS, strict=True):
        for (source, reader), value in entries.items():
            block[source, reader - 1] = value
    found = [HeatMaps("As published", known)]
    published, paper = network(model_config(_MODEL)), forms.cifar10()
    skipped = []
    for run in runs:
        if network_of(run) != published:
            skipped.append(
                f"{run.path} trained {network_name(run.config)}, but fig6 needs {_MODEL}, the "
                "plain DenseNet with L=40 and k=12"
            )
            continue
        try:
            model = load_network(run.path).model
        except InputError as error:
            skipped.append(str(error))
            continue
        row = row_of(run, paper)
        row = "Measured by the paper's protocol" if row == PUBLISHED else row
        blocks = [rescale(raw) for raw in heat_maps(model)]
        found.append(HeatMaps(f"{row}, seed {run.result['seed']}", blocks))
    return found, skipped


@styled
def draw_fig6(rows: list[HeatMaps], directory: Path) -> None:
    """Draws fig6.png, .svg and .pdf to `directory`."""
    canvas = Figure(figsize=(12, 0.4 + 4 * len(rows)))
    parts = canvas.subfigures(len(rows), squeeze=False)[:, 0]
    for row, part in zip(rows, parts, strict=True):
        part.suptitle(row.row, fontsize=9, x=0.01, ha="left", color="0.35")
        draw_heat_maps(part, row.blocks, LAST)
    canvas.suptitle(
        "TPAMI Figure 6 (CVPR Figure 5): mean absolute weight, each column from 0 to 1;\n"
        "plain DenseNet, L = 40, k = 12; hatched: not read, or unknown",
        fontsize=12,
    )
    save(canvas, directory / "fig6")


def draw_heat_maps(part: FigureBase, blocks: list[np.ndarray], last: tuple[str, ...]) -> None:
    """Draws a panel for each block; `last` names the reader in the last column of each panel."""
    axes = part.subplots(1, len(blocks), squeeze=False)[0]
    for b, (axis, block, reader) in enumerate(zip(axes, blocks, last, strict=True), start=1):
        axis.set_facecolor("0.93")
        axis.patch.set(hatch="///", edgecolor="0.8")
        image = axis.imshow(block, vmin=0, vmax=1, cmap="viridis", origin="upper")
        n = len(block)
        ticks = range(0, n, 2 if n > 8 else 1)
        axis.set_xticks(list(ticks), [str(t + 1) for t in ticks])
        axis.set_yticks(list(ticks))
        axis.grid(False)
        axis.set_title(f"block {b}; last column: {reader}", fontsize=10)
        axis.set(xlabel="layer that reads, l", ylabel="layer that is read, s")
    part.colorbar(image, ax=list(axes), shrink=0.8)


def write_csv(rows: list[HeatMaps], path: Path) -> None:
    """Writes a line for each known entry."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["protocol", "block", "source", "reader", "weight"])
        for row in rows:
            for b, block in enumerate(row.blocks, start=1):
                for source, reader in zip(*np.nonzero(~np.isnan(block)), strict=True):
                    value = block[source, reader]
                    writer.writerow([row.row, b, source, reader + 1, f"{value:.4g}"])
