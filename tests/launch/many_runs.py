"""Writes the directory of a large sweep without training, to time commands that read many runs.

    python tests/launch/many_runs.py DIR --runs 2000
    python -m launch.sweep --sweep DIR/sweep_file.py --workdir DIR/runs/sweep --status
    python -m launch.report sweep --runs DIR/runs --out DIR/report

DIR/sweep_file.py is a sweep over growth rate, compression and seed. DIR/runs/sweep holds a run
directory for each of its points, as training leaves it: every tenth run is unfinished, and all have
checkpoints. The first run has a metrics file of `--lines` lines, the others one of 20.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]

import small

from densenet_jax.train.record import RunDirectory, environment
from launch.sweep.points import Point, load_points

_EPOCHS = 20
_SETTINGS = small.RUN | {"data.holdout": 0, "epochs": _EPOCHS}
_NETWORKS = list(itertools.product([4, 8, 12, 16], [0.5, 1.0]))
# The files of an Orbax checkpoint, which reports do not read.
_CHECKPOINT = (
    *("_CHECKPOINT_METADATA", "default/_METADATA", "default/_sharding", "default/manifest.ocdbt"),
    *("default/array_metadatas/process_0", "default/ocdbt.process_0/manifest.ocdbt"),
    *(f"default/ocdbt.process_0/d/{i}" for i in range(4)),
    *("default/d/0", "default/d/1"),
)


def write_sweep(folder: Path, runs: int, lines: int = _EPOCHS) -> tuple[str, Path]:
    """Writes the sweep file and the run directories; returns the paths of both.

    Args:
      runs: the number of points, a multiple of 8.
      lines: the length of the metrics file of the first run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seeds = list(range(runs // len(_NETWORKS)))
    points = f"""hyper.product([
        hyper.sweep("config.model.growth_rate", {sorted({k for k, _ in _NETWORKS})}),
        hyper.sweep("config.model.compression", {sorted({c for _, c in _NETWORKS})}),
        hyper.sweep("config.seed", {seeds})])"""
    spec = folder / "sweep_file.py"
    spec.write_text(small.SWEEP_FILE.format(settings=_SETTINGS, points=points))
    workdir = folder / "runs" / "sweep"
    described = json.dumps(environment(), indent=2) + "\n"
    for i, point in enumerate(load_points(str(spec), workdir)):
        _write_run(point, described, is_finished=i % 10 != 9, lines=_EPOCHS if i else lines)
    return str(spec), workdir


def _write_run(point: Point, described: str, is_finished: bool, lines: int) -> None:
    workdir, config = point.workdir, point.config
    for step in (220, 440):
        for name in _CHECKPOINT:
            path = workdir / "checkpoints" / str(step) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    values = json.loads(config.to_json_best_effort())
    (workdir / "config.json").write_text(json.dumps(values, indent=2) + "\n")
    (workdir / "model.json").write_text(json.dumps({"name": config.model.name}) + "\n")
    (workdir / "environment.json").write_text(described)
    error = 5 + config.seed % 7 / 7 + 20 / config.model.growth_rate
    with (workdir / "metrics.jsonl").open("w") as file:
        for epoch in range(1, lines + 1):
            file.write(json.dumps(line(epoch, error + 50 / epoch)) + "\n")
    if is_finished:
        result = line(_EPOCHS, error) | {"model": config.model.name, "data": config.data.name}
        result |= {"official_data": True, "epochs": _EPOCHS, "seed": config.seed}
        result |= {"params": int(1000 * config.model.growth_rate * config.model.compression)}
        result |= {"train_seconds": 5.4, "images_per_second": 3325.5, "step_temp_bytes": 11543744}
        RunDirectory(workdir).finish(result)
        point.file("exit").parent.mkdir(exist_ok=True)
        point.file("exit").write_text("0\n")
    point.file("log").parent.mkdir(exist_ok=True)
    point.file("log").write_text("epoch 20/20: test error 5.00 %, 3,325 images/s\n" * 20)


def line(epoch: int, error: float) -> dict:
    """Returns a line of a metrics file."""
    losses = {"train_loss": 1 / epoch + 0.01728, "test_loss": 1 / epoch + 0.05728}
    rates = {"train_error": error / 3, "test_error": error, "learning_rate": 0.1}
    return {"step": 22 * epoch, "epoch": epoch, **losses, **rates}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="a new directory")
    parser.add_argument("--runs", type=int, default=2000, metavar="N", help="a multiple of 8")
    parser.add_argument(
        "--lines", type=int, default=_EPOCHS, metavar="N", help="lines of the first run"
    )
    args = parser.parse_args()
    spec, workdir = write_sweep(args.folder, args.runs, args.lines)
    print(f"{spec}\n{workdir}")
