"""Classify pictures.

    python -m launch.predict cat.jpg dogs/ 'holiday/*.png' --model densenet121 --weights FILE

    python -m launch.predict cat.jpg --weights runs/pets

Unreadable pictures are reported and skipped. A directory stands for all pictures below it. The
EXIF orientation is ignored, as in training.
"""

import glob
import json
import sys
from pathlib import Path

from densenet_jax.data import folders
from densenet_jax.errors import InputError, printable
from densenet_jax.files import check_regular
from densenet_jax.predict import Prediction, predict
from densenet_jax.train import process
from launch import command, network_flags
from launch.paths import expanded, typed_path

_PLOTS = (".png", ".svg", ".pdf", ".jpg")


def main(argv: list[str] | None = None) -> None:
    parser = command.parser(__doc__)
    parser.add_argument(
        "pictures", nargs="+", metavar="PICTURE", help="a file, a directory or a glob pattern"
    )
    parser.add_argument(
        "--top",
        type=int,
        default=5,
        metavar="N",
        help="number of classes to print (default: %(default)s)",
    )
    network_flags.add_picture_flags(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON array")
    parser.add_argument(
        "--plot",
        type=typed_path,
        metavar="FILE.png",
        help="draw the pictures with their predicted classes",
    )
    network_flags.add_flags(parser)
    args = parser.parse_intermixed_args(argv)  # Allows pictures after flags.
    if args.top < 1:
        raise InputError(f"--top is {args.top}: it must be at least 1")
    if args.plot and args.plot.suffix not in _PLOTS:
        raise InputError(f"--plot is {args.plot}: it must end in {', '.join(_PLOTS)}")
    if args.plot and not args.plot.parent.is_dir():
        raise InputError(
            f"--plot is in {args.plot.parent}, which is not a directory: create it first"
        )
    if args.plot and args.plot.exists():
        check_regular(args.plot)
    command.use_compile_cache(args.compile_cache)
    paths = _paths(args.pictures)
    process.configure(jax_is_unused=True)
    network = network_flags.read(args)
    found = network_flags.apply(predict, network, paths, args, top=args.top)
    results = [
        (path, predictions)
        for path, predictions in zip(paths, found, strict=True)
        if predictions is not None
    ]
    print(_as_json(results) if args.json else _as_text(results))
    if args.plot:
        # Imports matplotlib, which takes long.
        from densenet_jax.analysis.gallery import plot_predictions

        plot_predictions(results, args.plot)


def _paths(given: list[str]) -> list[Path]:
    """Returns the pictures that files, directories and glob patterns stand for."""
    paths = []
    for text in [text and str(expanded(text)) for text in given]:
        # pathlib's glob rejects absolute patterns.
        matching = [text] if Path(text).exists() else sorted(glob.glob(text, recursive=True))  # noqa: PTH207
        if not text or not matching:
            raise InputError(f"there is no picture {text!r}")
        found = [
            inside
            for path in map(Path, matching)
            for inside in (folders.below(path) if path.is_dir() else [path])
        ]
        if not found:
            raise InputError(f"{text} contains no pictures")
        paths += found
    return paths


def _as_json(results: list[tuple[Path, list[Prediction]]]) -> str:
    return json.dumps(
        [
            {
                "image": str(path),
                "predictions": [prediction._asdict() for prediction in predictions],
            }
            for path, predictions in results
        ],
        indent=2,
    )


def _as_text(results: list[tuple[Path, list[Prediction]]]) -> str:
    lines = []
    for path, predictions in results:
        lines.append(printable(path))
        lines += [f"  {p.probability:7.2%}  {printable(p.name)}" for p in predictions]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(command.run(main))
