"""Builds Figure 7: memory and time of training steps, measured and planned."""

import json
from pathlib import Path
from typing import NamedTuple

from densenet_jax.errors import InputError
from densenet_jax.models.catalog import model_config
from densenet_jax.models.densenet import DenseNetConfig
from densenet_jax.models.network import NetworkConfig
from densenet_jax.train.record import with_tuples
from experiments import figures as published
from launch import run_files
from launch.report.panels import PUBLISHED, Figure, Mark, Panel, Series
from launch.report.runs import Run, hardware, memory_gb, network, network_of

REMATS = ("none", "concat", "layer")


class Step(NamedTuple):
    """A training step of a network of the figure.

    Attributes:
      where: the device and the settings, for the row of the figure.
      params: in millions.
      seconds: None if the step was compiled only.
    """

    where: str
    remat: str
    depth: int
    params: float
    memory_gb: float
    seconds: float | None = None


def find_plans(directory: Path) -> list[dict]:
    """Returns the plans of `launch.plan --out` anywhere in `directory`.

    Raises InputError for a damaged plan.
    """
    plans = []
    for path in sorted(run_files.find_files(directory, "plan.json")):
        try:
            plans.append(with_tuples(json.loads(path.read_text())))
        except ValueError as error:
            raise InputError(f"{path} is damaged ({error}): remove it") from error
    return plans


def fig7(runs: list[Run], plans: list[dict]) -> Figure:
    """Builds Figure 7 from runs of `sweeps/memory.py` and from plans; ignores other runs."""
    steps = [step for step in [*map(_run_step, runs), *map(_plan_step, plans)] if step]
    by_depth: list[Series] = []
    by_params: list[Series] = []
    seconds: list[Series] = []
    params = published.PARAMS_BY_DEPTH
    for name, gb_by_depth in published.MEMORY_BY_DEPTH.items():
        marks = [Mark(f"L={depth}", depth, gb) for depth, gb in gb_by_depth.items()]
        by_depth.append(Series(PUBLISHED, name, name, marks))
        marks = [Mark(f"L={depth}", params[depth], gb) for depth, gb in gb_by_depth.items()]
        by_params.append(Series(PUBLISHED, name, name, marks))
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
            Panel("time", depth, "seconds per step", seconds, from_zero=True),
        ],
    )


def _run_step(run: Run) -> Step | None:
    """Returns the step of a run of `sweeps/memory.py`; None for any other run."""
    depth, gigabytes = _depth(network_of(run)), memory_gb(run)
    if depth is None or gigabytes is None or run.config["data.name"] != "synthetic":
        return None
    if run.config.get("model.block") == "kernels":  # The figure compares values of remat.
        return None
    kind = "peak" if "peak_memory_bytes" in run.result else "temporaries of a step"
    batch, dtype = run.config["batch_size"], run.config["dtype"]
    where = f"Measured on {hardware(run)}, batches of {batch}, {dtype}; memory: {kind}"
    remat = run.config["model.remat"] or "concat"
    seconds = batch / run.result["images_per_second"]
    return Step(where, remat, depth, run.result["params"] / 1e6, gigabytes, seconds)


def _plan_step(plan: dict) -> Step | None:
    """Returns the step of a plan; None for another network, or without memory."""
    depth = _depth(network(model_config(plan["model"], **plan["settings"])))
    if depth is None or plan["memory"] is None or plan.get("block") == "kernels":
        return None
    where = (
        f"Compiled for {plan['target']}, batches of {plan['batch_size']}, {plan['dtype']}; "
        "memory: temporaries of a step"
    )
    gigabytes = plan["memory"]["temp_bytes"] / 1e9
    return Step(where, plan["remat"], depth, plan["params"] / 1e6, gigabytes)


def _depth(config: NetworkConfig) -> int | None:
    """Returns L of a DenseNet-BC with k = 12 for small images; None for any other network."""
    if not isinstance(config, DenseNetConfig):
        return None
    depth = 6 * config.blocks[0] + 4
    return depth if config == network(model_config(f"densenet_bc_k12_d{depth}")) else None
