"""The papers' figures: published points, and those of runs of the same networks.

A figure has a column for each of the paper's panels, and a row for what is published and for
each way in which runs were trained. Runs by the paper's own protocol are beside its points.
"""

import statistics
from collections.abc import Iterable

from ml_collections import ConfigDict

from densenet_jax.errors import counted
from densenet_jax.models.catalog import model_config
from densenet_jax.train.config import defaults, flatten
from experiments import figures as published
from experiments.figures import Curve
from experiments.sweeps import forms
from launch import run_files
from launch.report.panels import PUBLISHED, Figure, Mark, Panel, Series
from launch.report.runs import Run, by_seed, macs, memory_gb, network, network_of, protocol

LABELS = {
    "params": "parameters (million)",
    "flops": "FLOPs of an image (10⁹)",
    "memory_gb": "memory to train (GB)",
}
_ERROR = "test error (%)"


def fig4(runs: list[Run]) -> Figure:
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
    panels = [
        _errors(f"against {what}", published.IMAGENET, x, runs, forms.imagenet())._replace(
            names_points=True
        )
        for x, what in (("params", "parameters"), ("flops", "FLOPs"), ("memory_gb", "memory"))
    ]
    title = "TPAMI Figure 5 (CVPR Figure 3): ImageNet, single crop; parameters, FLOPs and memory"
    return Figure("fig5", title, panels)


def _ablation(name: str, title: str, **panels: tuple[tuple[Curve, ...], str]):
    """A figure of errors on ImageNet; each panel has curves and what they are plotted against."""

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

# What makes each figure, of runs.
FIGURES = {
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
    """Errors against `x`, a field of `Point`; `paper` is the config that the points followed."""
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
    networks = {}
    for setting in curve.quick:
        settings = {k.removeprefix("model."): v for k, v in setting.items()}
        made = network(model_config(settings.pop("name"), **settings))
        networks[made] = curve.quick_name or curve.name
    for point in curve.points:
        made = network(model_config(point.model, **point.settings))
        networks[made] = curve.name
    found = {}
    for run in runs:
        if run.config["data.name"].startswith("synthetic"):
            continue  # Its labels are noise: it was run for its time and memory.
        if (made := network_of(run)) in networks:
            key = (row_of(run, paper), networks[made])
            found.setdefault(key, {}).setdefault(made, []).append(run)
    series = []
    for (row, name), by_network in found.items():
        marks = []
        for same in by_network.values():
            errors = by_seed(same)
            if (position := _position(same[-1], x)) is not None:
                label = same[-1].path.name
                marks.append(Mark(label, position, errors.mean, errors.std, len(errors.errors)))
        if marks:
            series.append(Series(row, name, curve.name, sorted(marks, key=lambda mark: mark.x)))
    return series


def _position(run: Run, x: str) -> float | None:
    if x == "params":
        return run.result["params"] / 1e6
    if x == "flops":
        return 2 * macs(run) / 1e9
    return memory_gb(run)


def row_of(run: Run, paper: ConfigDict) -> str:
    """The row of panels that a run belongs to: how it was trained."""
    how = protocol(run.config)
    if run.result.get("official_data") and how == protocol(flatten(paper)):
        return PUBLISHED
    usual = defaults()
    images = f"{counted(how['data.examples'], 'image')} of " if how["data.examples"] else ""
    said = [
        f"Measured: {images}{how['data.name']}",
        f"{counted(how['epochs'], 'epoch')} in batches of {how['batch_size']}",
        *([] if run.result.get("official_data") else ["not the official data"]),
        # Whatever else is not as in the base config, so that no two protocols share a row.
        *(
            f"{key.rpartition('.')[2].replace('_', ' ')} {value}"
            for key, value in how.items()
            if key not in ("data.examples", "data.name", "epochs", "batch_size")
            and value != usual[key]
        ),
    ]
    return ", ".join(said)


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
        rows = {}
        for run in runs:
            if network_of(run) in networks:
                rows.setdefault(row_of(run, paper), []).append(run)
        for row, same in rows.items():
            if len(marks := _learning_curve(same)) > 1:
                series.append(Series(row, f"{name}, {same[0].result['model']}", name, marks))
    return Panel("training curves", "epoch", _ERROR, series)


def _learning_curve(runs: list[Run]) -> list[Mark]:
    by_epoch = {}
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
