"""Writes gradient norms and feature reuse of each layer of a network."""

import csv
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from densenet_jax.analysis.feature_reuse import heat_maps, rescale, reuse
from densenet_jax.analysis.gradients import gradient_norms
from densenet_jax.analysis.style import COLOURS, MARKERS, save, styled
from densenet_jax.models.densenet import DenseNet
from densenet_jax.train.inputs import training_batch
from densenet_jax.train.record import RunDirectory
from densenet_jax.train.saved_network import load_network
from launch.report.heat_map import draw_heat_maps
from launch.report.runs import Run, network_name

_IMAGES = 256


def write(runs: list[Run], directory: Path) -> str:
    """Writes profile-NAME.csv, .png, .svg and .pdf of each run; returns a summary of each."""
    directory.mkdir(parents=True, exist_ok=True)
    return "\n".join(_write(run, directory) for run in runs)


def _write(run: Run, directory: Path) -> str:
    model = load_network(run.path).model
    batch = training_batch(RunDirectory(run.path).config(), _IMAGES)
    norms = gradient_norms(model, batch.images, batch.labels)
    blocks = heat_maps(model) if isinstance(model, DenseNet) else []
    name = f"profile-{run.path.name}"
    with (directory / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["what", "layer", "value"])
        writer.writerows(["gradient norm", layer, f"{norm:.6g}"] for layer, norm in norms.items())
        for b, raw in enumerate(blocks, start=1):
            writer.writerows(
                ["reuse", f"block {b} source {s}", f"{value:.6g}"]
                for s, value in enumerate(reuse(raw))
            )
    _draw(run, norms, blocks, directory / name)
    first, last = (np.mean(part) for part in np.array_split(list(norms.values())[1:-1], 2))
    return (
        f"{run.path.name}: gradients of the first half of its layers are {first / last:.2f} times "
        "as large as those of the second half"
    )


@styled
def _draw(run: Run, norms: dict[str, float], blocks: list[np.ndarray], path: Path) -> None:
    canvas = Figure(figsize=(12, 8 if blocks else 4))
    top, *bottom = canvas.subfigures(2 if blocks else 1, 1, squeeze=False)[:, 0]
    axes = top.subplots(1, 2 if blocks else 1, squeeze=False)[0]
    axes[0].plot(range(1, len(norms) + 1), list(norms.values()), marker=".", color=COLOURS[0])
    axes[0].set(
        title="gradients",
        xlabel="convolution, from the first; the last is the classifier",
        ylabel="norm of the gradient / norm of the weights",
        yscale="log",
    )
    for b, raw in enumerate(blocks, start=1):
        style = dict(color=COLOURS[b - 1], marker=MARKERS[b - 1])
        axes[1].plot(reuse(raw), label=f"block {b}", markersize=4, **style)
        axes[1].set(
            title="feature reuse",
            xlabel="layer that is read; 0: the block's input",
            ylabel="mean weight / mean weight of all layers that are read",
        )
        axes[1].legend()
    if blocks:
        names = [f"transition {b}" for b in range(1, len(blocks))]
        draw_heat_maps(bottom[0], [rescale(raw) for raw in blocks], (*names, "classifier"))
    canvas.suptitle(f"{run.path.name}: {network_name(run.config)} on {run.result['data']}")
    save(canvas, path)
