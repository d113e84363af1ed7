"""Evaluate a trained network.

    python -m launch.evaluate --workdir runs/quickstart

evaluates the checkpoint of a run, with the data and the batch size of the run's config. It prints
the step, the losses and the errors in percent; --crops 2 adds the errors with mirror images, and
--crops 10 those of ten crops of each picture.

    python -m launch.evaluate --weights densenet121.pth --model densenet121 --pictures imagenet/val

counts the errors of any weights on any pictures. The pictures are CLASS/PICTURE.jpg in the
directory or in its subdirectory `val`. Class directories have the class names of the run, or
ImageNet's identifiers such as n01440764; some may be missing. For other weights, labels follow the
names of the class directories sorted as text, as in training. Then every class needs a directory,
which may be empty. Top-5 errors need more than five classes.

    python -m launch.evaluate --workdir runs/cycles --ensemble
    python -m launch.evaluate --workdir runs/seed=0 --ensemble runs/seed=1 runs/seed=2

average the probabilities of the snapshots of a run with learning_rate_cycles, or of the last
checkpoints of several runs, and print the errors of each network and of the ensemble.

--report DIR writes the predictions, figures by class, the calibration and the worst mistakes, and
DIR/index.html, a page that shows them. Without it the command writes no files.
"""

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from densenet_jax.data import folders, imagenet
from densenet_jax.data.dataset import Split
from densenet_jax.data.pictures import MAX_PIXELS, decode, load
from densenet_jax.errors import InputError, counted, printable
from densenet_jax.models import catalog
from densenet_jax.models.network import Network
from densenet_jax.predict import logits
from densenet_jax.train import process
from densenet_jax.train.checkpoint import Checkpoints
from densenet_jax.train.failures import failures_reported
from densenet_jax.train.feed import MIRRORED
from densenet_jax.train.outputs import Outputs
from densenet_jax.train.record import RunDirectory
from densenet_jax.train.trainer import TOP, Trainer
from experiments import published
from launch import command, ensemble, hosts, network_flags, run_files
from launch.paths import typed_path


def main(argv: list[str] | None = None) -> None:
    parser = command.parser(__doc__)
    group = parser.add_argument_group("evaluation of a run")
    group.add_argument("--workdir", type=typed_path, help="a run directory")
    group.add_argument(
        "--data_directory",
        type=typed_path,
        help="directory of the data, if they moved since the run",
    )
    group.add_argument(
        "--checkpoint",
        choices=("last", "best"),
        default="last",
        help="best: the epoch with the lowest validation error, or with the lowest test error if "
        "the run has no validation set (default: %(default)s)",
    )
    group.add_argument(
        "--ensemble",
        type=typed_path,
        nargs="*",
        metavar="DIR",
        help="average the probabilities of this run's snapshots, or of this run and the runs DIR",
    )
    network_flags.add_picture_flags(parser)
    group = parser.add_argument_group("evaluation of weights")
    group.add_argument(
        "--pictures", type=typed_path, metavar="DIR", help="contains a directory for each class"
    )
    parser.add_argument(
        "--report",
        type=typed_path,
        metavar="DIR",
        help="write a report to DIR: predictions, figures by class, calibration, worst mistakes",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    network_flags.add_flags(parser, required=False)
    hosts.add_flags(parser)
    args = parser.parse_args(argv)
    if not (bool(args.workdir) ^ bool(args.weights and args.pictures)):
        raise InputError("set either --workdir, or both --weights and --pictures")
    if args.ensemble is not None:
        ensemble.check(args)
    if args.report:
        # Imports matplotlib, which takes long.
        from launch import evaluation_report

        evaluation_report.check(args.report, args.pictures)
    command.use_compile_cache(args.compile_cache)
    _evaluate_run(args) if args.workdir else _evaluate_weights(args)
    if args.report and not args.json and jax.process_index() == 0:
        print(f"report: {args.report / 'index.html'}")


def _evaluate_run(args: argparse.Namespace) -> None:
    flags = ("weights", "model", "num_classes", "ema", "pictures", "resize", "crop",
             "interpolation", "mean", "std")  # fmt: skip
    for flag in flags:
        if getattr(args, flag) is not None:
            raise InputError(f"--{flag} cannot be used with --workdir: the run sets it")
    hosts.join(args)
    process.configure(jax_is_unused=True)
    run = RunDirectory(args.workdir)
    if (args.workdir / "model.safetensors").exists() and not run.has_checkpoint():
        raise InputError(
            f"{args.workdir} holds weights without the checkpoint of a run: use --weights "
            f"{args.workdir} --pictures DIR"
        )
    config = ensemble.evaluated_config(args, run)
    if args.report and config.data.directory:
        from launch import evaluation_report

        evaluation_report.check(args.report, Path(config.data.directory))
    with failures_reported(run):
        trainer = Trainer(config)
        run.check_classes(trainer.data.classes)
        if args.ensemble is not None:
            found = ensemble.evaluate(args, run, trainer)
            if args.report:
                title = f"{run.path.name}, {found.name}"
                _report_run(args, title, trainer, found.outputs, found.held_out)
            print(found.as_json() if args.json else found.as_text(_as_phrases))
            return
        with Checkpoints(run.checkpoints, read_only=True) as checkpoints:
            state, _ = checkpoints.restore(trainer.state_like, args.checkpoint)
        errors = trainer.evaluate(state)
        if args.crops > 1:
            errors |= trainer.evaluate(state, args.crops)
        if args.report:
            outputs, held_out = trainer.logits(state, "test", args.crops), None
            if trainer.data.validation is not None:
                held_out = trainer.logits(state, "validation", args.crops)
            _report_run(args, run.path.name, trainer, outputs, held_out)
        step = int(state.step)
        print(json.dumps({"step": step, **errors}) if args.json else _as_line(step, errors))


def _report_run(
    args: argparse.Namespace,
    run: str,
    trainer: Trainer,
    outputs: Outputs,
    held_out: Outputs | None,
) -> None:
    """Writes the report of the outputs for the test and the validation images.

    Args:
      run: names the run in the title.
    """
    from launch import evaluation_report

    data, config, test = trainer.data, trainer.config, trainer.data.test
    if jax.process_index() > 0:
        return
    names = [
        f"test/{i}" if isinstance(test, Split) else test.name(i) for i in range(len(outputs.read))
    ]
    read = np.flatnonzero(outputs.read)

    def image(i: int) -> np.ndarray:
        if isinstance(test, Split):
            return test.images[read[i]]
        return data.crop(decode(test[int(read[i])].data, config.data.max_pixels))

    logits, labels = outputs.only_read()
    title = f"{config.model.name} on {config.data.name}, {run}"
    evaluation_report.write(
        args.report,
        evaluation_report.Evaluated(
            title=title + _of_crops(args.crops),
            logits=logits,
            labels=labels,
            names=[names[i] for i in read],
            classes=evaluation_report.class_names(data.classes, logits.shape[1]),
            image=image,
            held_out=held_out and held_out.only_read(),
            skipped=[names[i] for i in np.flatnonzero(~outputs.read)],
        ),
    )


def _of_crops(crops: int) -> str:
    return f", {crops} crops" if crops > 1 else ""


def _as_line(step: int, values: dict[str, float]) -> str:
    """Returns for example "step 460: test loss 0.0323, test error 1.39 %"."""
    return f"step {step:,}: {_as_phrases(values)}"


def _as_phrases(values: dict[str, float]) -> str:
    phrases = []
    for key, value in values.items():
        words = key.replace("top5_error", "top-5 error").replace("_10crop", " of ten crops")
        words = words.replace("_2crop", " with mirror images")
        words = words.removeprefix("raw_").replace("_", " ")
        of_raw = " before averaging" if key.startswith("raw_") else ""
        if "error" in key:
            phrases.append(f"{words} {value:.2f} %{of_raw}")
        elif key.endswith("loss"):
            phrases.append(f"{words} {value:.4g}{of_raw}")
        else:
            phrases.append(f"{words} {value:,.0f}")
    return ", ".join(phrases)


def _evaluate_weights(args: argparse.Namespace) -> None:
    process.configure(jax_is_unused=True)
    network = network_flags.read(args)
    if not network.config.num_classes:
        raise InputError(f"{args.weights} has no classes: name weights with a classifier")
    if network.multilabel:
        raise InputError(
            f"{args.weights} gives a picture several labels, and class directories give it one: "
            "evaluate the run with --workdir"
        )
    expected, label_order = _classes(network, is_run=(Path(args.weights) / "model.json").exists())
    paths, labels, classes = folders.labelled(args.pictures, expected)
    part = paths[0].relative_to(args.pictures).parts[0]
    if _are_of_training(args.pictures, part not in classes, Path(args.weights)):
        logging.getLogger("densenet_jax").warning(
            "%s holds the pictures that this network was trained on: errors are too low",
            args.pictures,
        )
    found = network_flags.apply(logits, network, paths, args)
    crop = network.preprocessing.crop
    report = {
        "weights": args.weights,
        "pictures": sum(values is not None for values in found),
        "broken": sum(values is None for values in found),
        "classes": len(np.unique(labels)),
        "label_order": f"{label_order} ({', '.join(classes[:5])}{', ...' * (len(classes) > 5)})",
        "crops": args.crops,
        "crop": crop.size,
        "resize": crop.resize,
        "interpolation": crop.interpolation,
        "top1_error": _error(found, labels, 1),
    }
    if network.config.num_classes > TOP:
        report["top5_error"] = _error(found, labels, TOP)
    if args.report:
        _report_weights(args, network, paths, found, labels, classes)
    name, changes = catalog.describe(network.config)
    print(json.dumps(report) if args.json else _as_text(report, "" if changes else name))


def _report_weights(
    args: argparse.Namespace,
    network: Network,
    paths: list[Path],
    found: list[np.ndarray | None],
    labels: np.ndarray,
    classes: Sequence[str],
) -> None:
    """Writes the report of weights. There are no held-out pictures, and so no temperature."""
    from launch import evaluation_report

    read = [i for i, values in enumerate(found) if values is not None]
    mode = "L" if network.config.in_channels == 1 else "RGB"
    max_pixels = MAX_PIXELS if args.max_pixels is None else args.max_pixels
    evaluation_report.write(
        args.report,
        evaluation_report.Evaluated(
            title=f"{args.weights} on {args.pictures}{_of_crops(args.crops)}",
            logits=np.stack([values for values in found if values is not None]),
            labels=labels[read],
            names=[str(paths[i]) for i in read],
            classes=evaluation_report.class_names(classes, network.config.num_classes),
            image=lambda i: network.preprocessing.crop(load(paths[read[i]], mode, max_pixels)),
            skipped=[
                str(path) for path, values in zip(paths, found, strict=True) if values is None
            ],
        ),
    )


def _are_of_training(pictures: Path, are_divided: bool, weights: Path) -> bool:
    """Returns whether `weights` is a run that was trained on pictures in the directory `pictures`.

    Args:
      are_divided: whether `pictures` has parts, of which only the test pictures are evaluated.
    """
    with contextlib.suppress(InputError, OSError):
        config = run_files.flat_config(weights) if weights.is_dir() else None
        if config and config["data.directory"] and not are_divided:
            directory, pictures = Path(config["data.directory"]).resolve(), pictures.resolve()
            if pictures.parent != directory:
                return pictures == directory
            parts = folders.divided(directory)
            return parts is not None and pictures == parts["train"].resolve()
    return False


def _classes(network: Network, is_run: bool) -> tuple[Sequence[str] | int, str]:
    """Returns the names or the number of the class directories, and the source of label order."""
    count = network.config.num_classes
    if network.classes and (is_run or count != 1000):
        return network.classes, f"class names of the {'run' if is_run else 'config.json'}"
    if count == 1000:
        return list(imagenet.classes()), "ImageNet's identifiers"
    if is_run:
        return [
            str(label) for label in range(count)
        ], "numbers from 0, because the run has no class names"
    return count, "directory names sorted as text"


def _error(found: list[np.ndarray | None], labels: np.ndarray, top: int) -> float:
    """Returns the percentage of pictures whose class is not among the `top` highest scores."""
    # Ties and NaN count as errors.
    missed = [
        (~(values < values[label])).sum() > top
        for values, label in zip(found, labels, strict=True)
        if values is not None
    ]
    return 100 * float(np.mean(missed))


def _as_text(report: dict, model: str) -> str:
    skipped = f", {report['broken']} unreadable skipped" if report["broken"] else ""
    lines = [
        f"{printable(report['weights'])}: {counted(report['pictures'], 'picture')} of "
        f"{counted(report['classes'], 'class')}{skipped}; {counted(report['crops'], 'crop')} of "
        f"{report['crop']} pixels after resizing to {report['resize']} "
        f"({report['interpolation']}); labels: "
        f"{printable(report['label_order'])}",
        f"{'error in %':46} top-1{'  top-5' * ('top5_error' in report)}",
        _line("measured", report["top1_error"], report.get("top5_error")),
    ]
    others = _published(model, report["crops"]) if "top5_error" in report else []
    if others:
        lines.append("published, on the 50,000 pictures of ImageNet's validation set:")
    return "\n".join(lines + [_line(*errors) for errors in others])


def _line(source: str, top1: float, top5: float | None) -> str:
    return f"  {source:44} {top1:5.2f}" + ("" if top5 is None else f"  {top5:5.2f}")


def _published(model: str, crops: int) -> list[tuple[str, float, float]]:
    """Returns the source, the top-1 and the top-5 error of each published result of a network."""
    rows: list[tuple[str, float, float]] = []
    if model in published.TABLE3 and crops != MIRRORED:
        errors = published.TABLE3[model].errors
        suffix = "" if crops == 1 else "_10crop"
        rows.append(("the papers, Table 3", errors[f"top1{suffix}"], errors[f"top5{suffix}"]))
    if crops == 1:
        for source, (top1, top5) in published.PRETRAINED.get(model, {}).items():
            rows.append((source, 100 - top1, 100 - top5))
    return rows


if __name__ == "__main__":
    sys.exit(command.run(main))
