"""Evaluates ensembles for `launch.evaluate`: the snapshots of a run, or several runs."""

import argparse
import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from densenet_jax.data.dataset import Dataset, Split
from densenet_jax.errors import InputError, counted, printable
from densenet_jax.train import ensemble
from densenet_jax.train.checkpoint import Checkpoints
from densenet_jax.train.feed import TEN_CROPS
from densenet_jax.train.outputs import Outputs
from densenet_jax.train.record import RunDirectory
from densenet_jax.train.trainer import Trainer

Errors = dict[str, float]


class Ensemble(NamedTuple):
    """An evaluated ensemble.

    Attributes:
      name: for example "ensemble of 4 snapshots".
      members: the errors of each member, by step or by run directory.
      errors: the errors of the mean probabilities.
      outputs: the outputs of the ensemble for the test images.
      held_out: the outputs for the held-out validation images, which no member was trained on.
    """

    name: str
    members: dict[str, Errors]
    errors: Errors
    outputs: Outputs
    held_out: Outputs | None

    def as_json(self) -> str:
        return json.dumps({"members": self.members, "ensemble": self.errors})

    def as_text(self, as_phrases: Callable[[Errors], str]) -> str:
        """Returns a line for each member and one for the ensemble."""
        lines = {**self.members, self.name: self.errors}
        return "\n".join(f"{printable(name)}: {as_phrases(x)}" for name, x in lines.items())


def check(args: argparse.Namespace) -> None:
    """Raises InputError if `--ensemble` does not suit the other flags or the run."""
    if not args.workdir:
        raise InputError("--ensemble is for runs: set --workdir instead of --weights")
    if args.checkpoint != "last":
        raise InputError(
            f"--checkpoint {args.checkpoint} cannot be used with --ensemble, which averages "
            "snapshots or last checkpoints: remove it"
        )
    if not args.ensemble and RunDirectory(args.workdir).config().learning_rate_cycles == 1:
        raise InputError(
            f"{args.workdir} has no snapshots, because its learning_rate_cycles is 1: name other "
            "runs after --ensemble"
        )
    seen: set[Path] = set()
    for path in (args.workdir, *args.ensemble):
        if path.resolve() in seen:
            raise InputError(f"--ensemble names the run {path} twice: name each run once")
        seen.add(path.resolve())


def evaluated_config(args: argparse.Namespace, run: RunDirectory) -> ConfigDict:
    """Returns the config of a run, with the flags that change its evaluation."""
    config = run.config()
    if args.data_directory:
        _move_data(config, args.data_directory)
    if args.batch_size is not None:
        config.eval_batch_size = args.batch_size
    if args.max_pixels is not None:
        config.data.max_pixels = args.max_pixels
    config.data.ten_crops = args.crops == TEN_CROPS
    return config


def _move_data(config: ConfigDict, directory: Path) -> None:
    """Sets the directory of the data, and the label file if it was in the old directory."""
    if config.data.labels:
        labels, old = (Path(p).resolve() for p in (config.data.labels, config.data.directory))
        if labels.is_relative_to(old):
            config.data.labels = str(directory / labels.relative_to(old))
    config.data.directory = str(directory)


def evaluate(args: argparse.Namespace, run: RunDirectory, trainer: Trainer) -> Ensemble:
    """Evaluates the snapshots of `run`, or `run` and the runs that `--ensemble` names.

    Raises InputError if a snapshot is missing, or if the runs have other test images or classes.
    """
    held_out = None
    if args.ensemble:
        outputs = _of_runs(args, run, trainer)
        name = f"ensemble of {counted(len(outputs), 'run')}"
    else:
        outputs = _of_snapshots(args, run, trainer, "test")
        name = f"ensemble of {counted(len(outputs), 'snapshot')}"
        if args.report and trainer.data.validation is not None:
            found = _of_snapshots(args, run, trainer, "validation")
            held_out = ensemble.average(found.values())
    average = ensemble.average(outputs.values())
    members = {name: _errors(args, trainer, output) for name, output in outputs.items()}
    return Ensemble(name, members, _errors(args, trainer, average), average, held_out)


def _of_snapshots(
    args: argparse.Namespace, run: RunDirectory, trainer: Trainer, split: str
) -> dict[str, Outputs]:
    """Returns the outputs of each snapshot of a run, by step."""
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
        found = ensemble.snapshot_outputs(trainer, checkpoints, split, args.crops)
    return {f"step {step:,}": outputs for step, outputs in found.items()}


def _of_runs(args: argparse.Namespace, first: RunDirectory, trainer: Trainer) -> dict[str, Outputs]:
    """Returns the outputs of the last checkpoint of each run for the test images, by directory."""
    members = {str(first.path): _of_run(args, first, trainer)}
    for run in map(RunDirectory, args.ensemble):
        with contextlib.closing(Trainer(evaluated_config(args, run))) as other:
            run.check_classes(other.data.classes)
            if different := _difference(trainer, other):
                raise InputError(
                    f"{run.path} cannot be in an ensemble with {first.path}, because they differ "
                    f"in {different}: name runs with the same test images and classes"
                )
            members[str(run.path)] = _of_run(args, run, other)
    return members


def _of_run(args: argparse.Namespace, run: RunDirectory, trainer: Trainer) -> Outputs:
    with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
        state, _ = checkpoints.restore(trainer.state_like)
    return trainer.logits(state, "test", args.crops)


def _errors(args: argparse.Namespace, trainer: Trainer, outputs: Outputs) -> Errors:
    """Returns the errors of outputs under the names of `Trainer.evaluate`."""
    suffix = f"_{args.crops}crop" if args.crops > 1 else ""
    return {
        key + suffix * key.endswith("error"): value
        for key, value in ensemble.errors(trainer, outputs).items()
    }


def _difference(first: Trainer, second: Trainer) -> str | None:
    """Returns what two runs of an ensemble must share and do not; None if nothing is missing."""
    names = [trainer.config.data.name for trainer in (first, second)]
    if names[0] != names[1]:
        return f"data.name, {names[0]} and {names[1]}"
    classes = [
        (trainer.model_config.num_classes, trainer.data.classes, trainer.data.multilabel)
        for trainer in (first, second)
    ]
    if classes[0] != classes[1]:
        return "their classes"
    return None if _have_same_test_images(first.data, second.data) else "their test images"


def _have_same_test_images(first: Dataset, second: Dataset) -> bool:
    one, two = first.test, second.test
    if isinstance(one, Split) and isinstance(two, Split):
        same_labels = np.array_equal(one.labels, two.labels)
        return same_labels and np.array_equal(one.images, two.images)
    if isinstance(one, Split) or isinstance(two, Split) or len(one) != len(two):
        return False
    return all(one.name(i) == two.name(i) for i in range(len(one)))
