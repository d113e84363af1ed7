"""Figure 7: memory and time of training steps, measured and planned."""

import json
from pathlib import Path
from typing import NamedTuple

from densenet_jax.errors import InputError
from densenet_jax.models.catalog import model_config
from densenet_jax.models.densenet import DenseNetConfig
from densenet_jax.train.record import with_tuples
from experiments import figures as published
from launch import run_files
from launch.report.panels import PUBLISHED, Figure, Mark, Panel, Series
from launch.report.runs import Run, memory_gb, network, network_of

REMATS = ("none", "concat", "layer")


class Step(NamedTuple):
    """A training step of a network of the figure; `where` it ran, or would run."""

    where: str
    remat: str
    depth: int
    params: float
    memory_gb: float
    seconds: float | None = None


def find_plans(folder: Path) -> list[dict]:
    """What `launch.plan --out` has left anywhere in `folder`. InputError if it is damaged."""
    plans = []
    for path in sorted(run_files.find_files(folder, "plan.json")):
        try:
            plans.append(with_tuples(json.loads(path.read_text())))
        except ValueError as error:
            raise InputError(f"{path} is damaged ({error}): remove it.") from error
    return plans


def fig7(runs: list[Run], plans: list[dict]) -> Figure:
    steps = [step for step in [*map(_of_run, runs), *map(_of_plan, plans)] if step]
    by_depth, by_params, seconds = [], [], []
    for name, gigabytes in published.MEMORY_BY_DEPTH.items():
        params = published.PARAMS_BY_DEPTH
        for series, position in ((by_depth, int), (by_params, params.get)):
            marks = [Mark(f"L={depth}", position(depth), gb) for depth, gb in gigabytes.items()]
            series.append(Series(PUBLISHED, name, name, marks))
        mark = Mark("L=100", 100, published.STEP_SECONDS[name])
        seconds.append(Series(PUBLISHED, name, name, [mark]))
    for where in dict.fromkeys(step.where for step in steps):
        for remat in REMATS:
            same = [step for step in steps if (step.where, step.remat) == (where, remat)]
            for series, x, y in (
                (by_depth, "depth", "memory_gb"),
                (by_params, "params", "memory_gb"),
                (seconds, "depth", "seconds"),
            ):
                marks = [
                    Mark(f"L={step.depth}", getattr(step, x), getattr(step, y), seeds=1)
                    for step in sorted(same, key=lambda step: step.depth)
                    if getattr(step, y) is not None
                ]
                if marks:
                    series.append(Series(where, f"remat={remat}", remat, marks))
    depth, gigabytes = "depth L (layers)", "memory to train (GB)"
    return Figure(
        "fig7",
        "TPAMI Figure 7: memory and time of DenseNet-BC, k = 12, in batches of 64",
        [
            Panel("memory against depth", depth, gigabytes, by_depth, from_zero=True),
            Panel(
                "memory against parameters",
                "parameters (million)",
                gigabytes,
                by_params,
                from_zero=True,
            ),
            Panel("time", depth, "seconds a step", seconds, from_zero=True),
        ],
    )


def _of_run(run: Run) -> Step | None:
    """A run of `sweeps/memory.py`; None of any other."""
    depth, gigabytes = _depth(network_of(run)), memory_gb(run)
    if depth is None or gigabytes is None or run.config["data.name"] != "synthetic":
        return None
    [device, *_] = run.environment["devices"]
    kind = "peak" if "peak_memory_bytes" in run.result else "temporaries of a step"
    batch, dtype = run.config["batch_size"], run.config["dtype"]
    where = f"Measured on {device}, batches of {batch}, {dtype}; memory: {kind}"
    remat = run.config["model.remat"] or "concat"
    seconds = batch / run.result["images_per_second"]
    return Step(where, remat, depth, run.result["params"] / 1e6, gigabytes, seconds)


def _of_plan(plan: dict) -> Step | None:
    depth = _depth(network(model_config(plan["model"], **plan["settings"])))
    if depth is None or plan["memory"] is None:
        return None
    where = (
        f"Compiled for {plan['target']}, batches of {plan['batch_size']}, {plan['dtype']}; "
        "memory: temporaries of a step"
    )
    gigabytes = plan["memory"]["temp_bytes"] / 1e9
    return Step(where, plan["remat"], depth, plan["params"] / 1e6, gigabytes)


def _depth(made) -> int | None:
    """L, if this is a DenseNet-BC with k = 12 for small images."""
    if not isinstance(made, DenseNetConfig):
        return None
    depth = 6 * made.blocks[0] + 4
    return depth if made == network(model_config(f"densenet_bc_k12_d{depth}")) else None
