"""Evaluate a trained network.

    python -m launch.evaluate --workdir runs/quickstart

evaluates the checkpoint of a run again, on the data of its config: prints the losses, and the
errors in percent; with --crops 10 also those of ten crops of each picture.

    python -m launch.evaluate --weights densenet121.pth --model densenet121 --pictures imagenet/val

counts the errors of any weights on any pictures: a folder, or its `val`, that holds a folder for
each class, CLASS/picture.jpg. Class folders are named as in the training of a run, or n01440764 and
so on for ImageNet; some may be missing. For other weights labels follow the folder names sorted as
text, as in training, so that the folders of all classes must be there; a folder may be empty.

Changes nothing.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from densenet_jax.data import folders, imagenet
from densenet_jax.errors import InputError, counted, printable
from densenet_jax.predict import logits
from densenet_jax.train import process
from densenet_jax.train.checkpoint import Checkpoints
from densenet_jax.train.failures import failures_reported
from densenet_jax.train.feed import TEN_CROPS
from densenet_jax.train.record import RunDirectory
from densenet_jax.train.trainer import Trainer
from experiments import published
from launch import command, hosts, network
from launch.paths import typed_path


def main(argv: list[str] | None = None) -> None:
    parser = command.parser(__doc__)
    group = parser.add_argument_group("of a run")
    group.add_argument("--workdir", type=typed_path, help="a run directory")
    group.add_argument(
        "--data_directory", type=typed_path, help="the data, if not where the run had them"
    )
    group.add_argument(
        "--checkpoint",
        choices=("last", "best"),
        default="last",
        help="best: of the epoch with the lowest validation error, or test error if nothing was "
        "held out (%(default)s)",
    )
    network.add_look_flags(parser)
    group = parser.add_argument_group("of weights")
    group.add_argument("--pictures", type=typed_path, metavar="DIR", help="a folder for each class")
    group.add_argument("--json", action="store_true", help="print a JSON object")
    network.add_flags(parser, required=False)
    hosts.add_flags(parser)
    args = parser.parse_args(argv)
    if not (bool(args.workdir) ^ bool(args.weights and args.pictures)):
        raise InputError("give --workdir; or else both --weights and --pictures.")
    command.use_compile_cache(args.compile_cache)
    _evaluate_run(args) if args.workdir else _evaluate_weights(args)


def _evaluate_run(args: argparse.Namespace) -> None:
    flags = ("weights", "model", "num_classes", "pictures", "resize", "crop", "interpolation",
             "mean", "std")  # fmt: skip
    for flag in flags:
        if getattr(args, flag) is not None:
            raise InputError(f"--{flag} does not go with --workdir, which has it from its config")
    hosts.join(args)
    process.configure()
    run = RunDirectory(args.workdir)
    config = run.config()
    if args.data_directory:
        config.data.directory = str(args.data_directory)
    if args.batch_size is not None:
        config.eval_batch_size = args.batch_size
    if args.max_pixels is not None:
        config.data.max_pixels = args.max_pixels
    config.data.ten_crops = args.crops == TEN_CROPS
    with failures_reported(run):
        trainer = Trainer(config)
        run.check_classes(trainer.data.classes)
        with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
            state, _ = checkpoints.restore(trainer.initial_state, args.checkpoint)
        errors = trainer.evaluate(state)
        if config.data.ten_crops:
            errors |= trainer.evaluate(state, TEN_CROPS)
        print(json.dumps({"step": int(state.step), **errors}))


def _evaluate_weights(args: argparse.Namespace) -> None:
    process.configure()
    known = network.read(args)
    classes, label_order = _classes(known, is_run=Path(args.weights).is_dir())
    paths, labels, classes = folders.labelled(args.pictures, classes)
    found = network.look_at(known, paths, logits, args)
    report = {
        "weights": args.weights,
        "pictures": sum(values is not None for values in found),
        "broken": sum(values is None for values in found),
        "classes": len(np.unique(labels)),
        "label_order": f"{label_order} ({', '.join(classes[:5])}{', ...' * (len(classes) > 5)})",
        "crops": args.crops,
        "crop": known.preprocessing.crop.size,
        "resize": known.preprocessing.crop.resize,
        "interpolation": known.preprocessing.crop.interpolation,
        "top1_error": _error(found, labels, 1),
        "top5_error": _error(found, labels, 5),
    }
    print(json.dumps(report) if args.json else _as_text(report, args.model))


def _classes(known: network.Network, is_run: bool) -> tuple[Sequence[str] | int, str]:
    """Returns the names of the class folders, or only their number; and what orders the labels."""
    count = known.model.config.num_classes
    if known.classes:
        return known.classes, "class names of the run"
    if count == 1000:
        return list(imagenet.classes()), "ImageNet's identifiers"
    if is_run:
        return [str(label) for label in range(count)], "numbers from 0, as the run has no names"
    return count, "folder names sorted as text"


def _error(found: list[np.ndarray | None], labels: np.ndarray, top: int) -> float:
    """Returns how often the right class is not among the `top` that score most, in percent."""
    # Ties and NaN count as errors.
    missed = [
        (~(values < values[label])).sum() > top
        for values, label in zip(found, labels, strict=True)
        if values is not None
    ]
    return 100 * float(np.mean(missed))


def _as_text(report: dict, model: str | None) -> str:
    broken = f", {report['broken']} unreadable skipped" if report["broken"] else ""
    lines = [
        f"{printable(report['weights'])}: {counted(report['pictures'], 'picture')} of "
        f"{counted(report['classes'], 'class')}{broken}; {counted(report['crops'], 'crop')} of "
        f"{report['crop']} pixels after resizing to {report['resize']} "
        f"({report['interpolation']}); labels: "
        f"{printable(report['label_order'])}",
        f"{'error in %':46} top-1  top-5",
        _line("measured", report["top1_error"], report["top5_error"]),
    ]
    of_others = _published(model, report["crops"])
    if of_others:
        lines.append("published, of the 50,000 pictures of ImageNet's validation set:")
    return "\n".join(lines + [_line(*errors) for errors in of_others])


def _line(who: str, top1: float, top5: float) -> str:
    return f"  {who:44} {top1:5.2f}  {top5:5.2f}"


def _published(model: str | None, crops: int) -> list[tuple[str, float, float]]:
    """Who published errors of this network, and which."""
    rows = []
    if model in published.TABLE3:
        errors = published.TABLE3[model].errors
        suffix = "" if crops == 1 else "_10crop"
        rows.append(("the papers, Table 3", errors[f"top1{suffix}"], errors[f"top5{suffix}"]))
    if crops == 1:
        for who, accuracies in published.PRETRAINED.get(model, {}).items():
            rows.append((who, *(100 - accuracy for accuracy in accuracies)))
    return rows


if __name__ == "__main__":
    sys.exit(command.run(main))
