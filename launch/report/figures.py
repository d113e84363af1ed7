"""Builds the papers' figures from published points and from runs of the same networks.

A figure has a column for each of the paper's panels. The first row holds the published points and
the runs that followed the paper's protocol. Each other protocol has a separate row.
"""

import statistics
from collections.abc import Callable, Iterable

from ml_collections import ConfigDict

from densenet_jax.errors import counted
from densenet_jax.models.catalog import model_config
from densenet_jax.models.network import NetworkConfig
from densenet_jax.train.config import defaults, flatten
from experiments import figures as published
from experiments.figures import Curve
from experiments.sweeps import forms
from launch import run_files
from launch.report.panels import PUBLISHED, Figure, Mark, Panel, Series
from launch.report.runs import (
    Run,
    by_seed,
    macs,
    memory_gb,
    network,
    network_name,
    network_of,
    protocol,
)

LABELS = {
    "params": "parameters (million)",
    "flops": "FLOPs per image (10⁹)",
    "memory_gb": "memory to train (GB)",
}
_ERROR = "test error (%)"


def fig4(runs: list[Run]) -> Figure:
    """Builds Figure 4: errors on CIFAR-10 against parameters, and training curves."""
    *densenets, resnet = published.PARAMETER_EFFICIENCY
    paper = forms.cifar10()
    return Figure(
        "fig4",
        "TPAMI Figure 4 (CVPR Figure 4): parameter efficiency, training curves",
        [
            _errors("variants of DenseNet", densenets, "params", runs, paper),
            _errors("DenseNet-BC and ResNet", [densenets[-1], resnet], "params", runs, paper),
            _training_curves(runs, paper),
        ],
    )


def fig5(runs: list[Run]) -> Figure:
    """Builds Figure 5: errors on ImageNet against parameters, FLOPs and memory."""
    panels = [
        _errors(f"against {what}", published.IMAGENET, x, runs, forms.imagenet())._replace(
            names_points=True
        )
        for x, what in (("params", "parameters"), ("flops", "FLOPs"), ("memory_gb", "memory"))
    ]
    title = "TPAMI Figure 5 (CVPR Figure 3): ImageNet, single crop; parameters, FLOPs and memory"
    return Figure("fig5", title, panels)


def _ablation(
    name: str, title: str, **panels: tuple[tuple[Curve, ...], str]
) -> Callable[[list[Run]], Figure]:
    """Returns the function that builds a figure of errors on ImageNet.

    Args:
      panels: the curves of each panel, and the field of `Point` on its x axis.
    """

    def figure(runs: list[Run]) -> Figure:
        paper = forms.imagenet()
        drawn = [
            _errors(panel.replace("_", " "), curves, x, runs, paper)
            for panel, (curves, x) in panels.items()
        ]
        return Figure(name, title, drawn)

    return figure


fig8 = _ablation(
    "fig8",
    "TPAMI Figure 8: growth rate, bottleneck width, compression",
    growth_rate=(published.GROWTH_RATE, "flops"),
    bottleneck=(published.BOTTLENECK, "flops"),
    compression=(published.COMPRESSION, "flops"),
)
fig9 = _ablation(
    "fig9",
    "TPAMI Figure 9: full dense connectivity",
    against_parameters=(published.FULL_CONNECTIVITY, "params"),
    against_FLOPs=(published.FULL_CONNECTIVITY, "flops"),
)
fig10 = _ablation(
    "fig10",
    "TPAMI Figure 10: partial dense connectivity",
    against_parameters=(published.PARTIAL_CONNECTIVITY, "params"),
    against_FLOPs=(published.PARTIAL_CONNECTIVITY, "flops"),
)
fig11 = _ablation(
    "fig11",
    "TPAMI Figure 11: exponentially increasing growth rate",
    against_parameters=(published.EXPONENTIAL_GROWTH, "params"),
    against_FLOPs=(published.EXPONENTIAL_GROWTH, "flops"),
)
fig12 = _ablation(
    "fig12",
    "TPAMI Figure 12: pre- and post-activation BatchNorm",
    against_parameters=(published.POST_ACTIVATION, "params"),
)

# The function that builds each figure from runs.
FIGURES: dict[str, Callable[[list[Run]], Figure]] = {
    "fig4": fig4,
    "fig5": fig5,
    "fig8": fig8,
    "fig9": fig9,
    "fig10": fig10,
    "fig11": fig11,
    "fig12": fig12,
}


def _errors(
    title: str, curves: Iterable[Curve], x: str, runs: list[Run], paper: ConfigDict
) -> Panel:
    """Returns a panel of errors against `x`.

    Args:
      x: a field of `Point`.
      paper: the config by which the published points were measured.
    """
    series = []
    for curve in curves:
        marks = [
            Mark(point.label, getattr(point, x), point.error)
            for point in curve.points
            if getattr(point, x) is not None
        ]
        if marks:
            series.append(Series(PUBLISHED, curve.name, curve.name, marks))
        series += _measured_errors(curve, x, runs, paper)
    return Panel(title, LABELS[x], _ERROR, series)


def _measured_errors(curve: Curve, x: str, runs: list[Run], paper: ConfigDict) -> list[Series]:
    """Returns the series of runs whose network is on `curve`, or in its quick form."""
    names: dict[NetworkConfig, str] = {}
    for setting in curve.quick:
        settings = {k.removeprefix("model."): v for k, v in setting.items()}
        config = network(model_config(str(settings.pop("name")), **settings))
        names[config] = curve.quick_name or curve.name
    for point in curve.points:
        config = network(model_config(point.model, **point.settings))
        names[config] = curve.name
    found: dict[tuple[str, str], dict[NetworkConfig, list[Run]]] = {}
    for run in runs:
        if run.config["data.name"].startswith("synthetic"):
            continue  # Synthetic labels are noise: such runs measure time and memory.
        if (config := network_of(run)) in names:
            key = (row_of(run, paper), names[config])
            found.setdefault(key, {}).setdefault(config, []).append(run)
    series = []
    for (row, name), by_network in found.items():
        marks = []
        for same in by_network.values():
            errors, position = by_seed(same), _position(same[-1], x)
            if position is not None and errors.mean is not None:
                label = network_name(same[-1].config)
                marks.append(Mark(label, position, errors.mean, errors.std, len(errors.errors)))
        if marks:
            series.append(Series(row, name, curve.name, sorted(marks, key=lambda mark: mark.x)))
    return series


def _position(run: Run, x: str) -> float | None:
    """Returns the value of a run for the x axis, in the unit of `LABELS`; None if unknown."""
    if x == "params":
        return run.result["params"] / 1e6
    if x == "flops":
        return 2 * macs(run) / 1e9
    return memory_gb(run)


def row_of(run: Run, paper: ConfigDict) -> str:
    """Returns the name of the row of panels for a run, which describes how it was trained."""
    how = protocol(run.config)
    if run.result.get("official_data") and how == protocol(flatten(paper)):
        return PUBLISHED
    base = defaults()
    images = f"{counted(how['data.examples'], 'image')} of " if how["data.examples"] else ""
    parts = [
        f"Measured: {images}{how['data.name']}",
        f"{counted(how['epochs'], 'epoch')} in batches of {how['batch_size']}",
        *([] if run.result.get("official_data") else ["not the official data"]),
        # All other changes of the base config, so that no two protocols share a row.
        *(
            f"{key.rpartition('.')[2].replace('_', ' ')} {value}"
            for key, value in how.items()
            if key not in ("data.examples", "data.name", "epochs", "batch_size")
            and value != base[key]
        ),
    ]
    return ", ".join(parts)


def _training_curves(runs: list[Run], paper: ConfigDict) -> Panel:
    series = []
    for name, curve in published.TRAINING_CURVES.items():
        marks = [
            Mark(f"{first}-{last}", (first + last) / 2, error)
            for (first, last), error in curve.errors.items()
        ]
        marks.append(Mark("300", 300, curve.last_error))
        series.append(Series(PUBLISHED, name, name, marks))
        networks = [network(model_config(model)) for model in (curve.model, curve.quick)]
        rows: dict[str, list[Run]] = {}
        for run in runs:
            if network_of(run) in networks:
                rows.setdefault(row_of(run, paper), []).append(run)
        for row, same in rows.items():
            if len(marks := _learning_curve(same)) > 1:
                series.append(Series(row, f"{name}, {network_name(same[0].config)}", name, marks))
    return Panel("training curves", "epoch", _ERROR, series)


def _learning_curve(runs: list[Run]) -> list[Mark]:
    """Returns the mean test error of `runs` at each epoch with an evaluation."""
    by_epoch: dict[int, list[float]] = {}
    for run in runs:
        for line in run_files.metrics_backwards(run.path):
            if "test_error" in line:
                by_epoch.setdefault(line["epoch"], []).append(line["test_error"])
    return [
        Mark(
            str(epoch),
            epoch,
            statistics.fmean(errors),
            statistics.stdev(errors) if len(errors) > 1 else None,
            len(errors),
        )
        for epoch, errors in sorted(by_epoch.items())
    ]
