"""Draws learning curves."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from densenet_jax.analysis.style import save, styled
from densenet_jax.models.labels import network_label
from densenet_jax.train.config import model_overrides
from densenet_jax.train.record import RunDirectory


@styled
def plot_learning_curve(run: RunDirectory, path: Path) -> None:
    """Draws the losses and errors of a run against epochs to `path`, in any matplotlib format."""
    lines, config = run.metrics(), run.config()
    figure = Figure(figsize=(9, 3.5))
    loss_axis, error_axis = figure.subplots(1, 2)
    for key, label in (
        ("train_loss", "training"),
        ("validation_loss", "validation"),
        ("test_loss", "test"),
    ):
        _plot(loss_axis, lines, key, label)
        _plot(error_axis, lines, key.replace("loss", "error"), label)
    loss_axis.set(xlabel="epoch", ylabel=f"loss ({config.loss})", yscale="log")
    error_axis.set(xlabel="epoch", ylabel="error (%)", yscale="log")
    error_axis.yaxis.set_major_formatter("{x:g}")
    loss_axis.legend()
    last = lines[-1]["test_error"]
    network = network_label(config.model.name, model_overrides(config))
    figure.suptitle(
        f"{network} on {config.data.name}: {last:.2f} % test error after epoch {lines[-1]['epoch']}"
    )
    for axis in (loss_axis, error_axis):
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    save(figure, path)


def _plot(axis, lines: list[dict], key: str, label: str) -> None:
    points = [(line["epoch"], line[key]) for line in lines if key in line]
    if points:
        axis.plot(*zip(*points, strict=True), label=label)
