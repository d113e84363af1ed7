"""Classify the features of a network with k nearest neighbours and a logistic probe.

    python -m launch.probe PICTURES --weights densenet121.safetensors --model densenet121

PICTURES is a directory as for training: train/CLASS/... and val/CLASS/..., or CLASS/..., of which
every fifth picture is for testing; files with several labels for each picture are not read. The
network computes the features of each picture once and is not trained. Neighbours are compared by
the cosine of their features; the logistic regression reads standardised features. The command
prints the test errors of both and writes no files.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from densenet_jax.data import folders
from densenet_jax.errors import InputError, counted
from densenet_jax.predict import embed
from densenet_jax.train import process
from launch import command, network_flags
from launch.paths import typed_path

_MOST_ITERATIONS = 2000  # Of the logistic regression.


def main(argv: list[str] | None = None) -> None:
    parser = command.parser(__doc__)
    parser.add_argument("pictures", type=typed_path, metavar="PICTURES", help="a directory")
    parser.add_argument(
        "--neighbours", type=int, default=5, metavar="K", help="(default: %(default)s)"
    )
    network_flags.add_picture_flags(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON object")
    network_flags.add_flags(parser)
    args = parser.parse_args(argv)
    command.use_compile_cache(args.compile_cache)
    tree = folders.find(args.pictures, f"name {folders.LAYOUT}")
    parts = {name: _examples(part) for name, part in tree.parts.items()}
    paths, labels = parts["train"]
    if not 1 <= args.neighbours <= len(paths):
        raise InputError(
            f"--neighbours is {args.neighbours}: use 1 to {len(paths):,}, the number of training "
            "pictures"
        )
    process.configure(jax_is_unused=True)
    network = network_flags.read(args)
    every = [path for part_paths, _ in parts.values() for path in part_paths]
    found = network_flags.apply(embed, network, every, args)
    is_read = np.array([features is not None for features in found])
    is_train = np.arange(len(every)) < len(paths)
    all_labels = np.concatenate([part_labels for _, part_labels in parts.values()])
    features = np.stack([f for f in found if f is not None]).astype(np.float64)
    train, labels = is_train[is_read], all_labels[is_read]
    if not train.any() or train.all():
        raise InputError(f"no {'test' if train.any() else 'training'} picture can be read")
    errors = _errors(features, labels, train, args.neighbours)
    report = {
        "weights": args.weights,
        "classes": len(tree.classes),
        "features": features.shape[1],
        "train_pictures": int(train.sum()),
        "test_pictures": int((~train).sum()),
        "broken": int((~is_read).sum()),
        "neighbours": args.neighbours,
        **errors,
    }
    print(json.dumps(report) if args.json else _as_text(report))


def _examples(part: folders.Classes) -> tuple[list[Path], np.ndarray]:
    """Returns the paths and labels of the pictures of a part; labels follow the sorted names."""
    names = list(part)
    labels = [names.index(name) for name in names for _ in part[name]]
    return [Path(path) for name in names for path in part[name]], np.array(labels)


def _errors(
    features: np.ndarray, labels: Sequence[int] | np.ndarray, train: np.ndarray, neighbours: int
) -> dict[str, float]:
    """Returns the test errors of both classifiers, in percent."""
    # Imports take a second.
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    labels = np.asarray(labels)
    classifiers = {
        "neighbours_error": KNeighborsClassifier(neighbours, metric="cosine"),
        "probe_error": make_pipeline(
            StandardScaler(), LogisticRegression(max_iter=_MOST_ITERATIONS)
        ),
    }
    return {
        name: 100 * float(np.mean(made.fit(features[train], labels[train]).predict(
            features[~train]) != labels[~train]))
        for name, made in classifiers.items()
    }  # fmt: skip


def _as_text(report: dict) -> str:
    broken = f", {report['broken']} unreadable skipped" if report["broken"] else ""
    return (
        f"{counted(report['train_pictures'], 'training picture')} and "
        f"{counted(report['test_pictures'], 'test picture')} of "
        f"{counted(report['classes'], 'class')}{broken}; "
        f"{counted(report['features'], 'feature')}\n"
        f"  {report['neighbours']} nearest neighbours  {report['neighbours_error']:5.2f} % error\n"
        f"  logistic probe        {report['probe_error']:5.2f} % error"
    )


if __name__ == "__main__":
    sys.exit(command.run(main))
