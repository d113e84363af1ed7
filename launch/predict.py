"""Classify pictures.

    python -m launch.predict cat.jpg dogs/ 'holiday/*.png' --model densenet121 --weights FILE

    python -m launch.predict cat.jpg --weights runs/pets

    python -m launch.predict cats/ --weights runs/pets --cam maps.png --embeddings cats.npz

also draws where the network sees its best classes, and writes the features that its classifier
reads.

Unreadable pictures are reported and skipped. A directory stands for all pictures below it. The
EXIF orientation is ignored, as in training.
"""

import argparse
import glob
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from densenet_jax.analysis.activation_maps import class_activation_maps
from densenet_jax.data import folders
from densenet_jax.errors import InputError, counted, printable
from densenet_jax.files import check_writable, write_durably
from densenet_jax.models.network import Network
from densenet_jax.predict import Prediction, embed, predict
from densenet_jax.train import process
from launch import command, network_flags
from launch.paths import expanded, typed_path

_PLOTS = (".png", ".svg", ".pdf", ".jpg")
_MOST_DRAWN = 100  # Pictures in one file, whose height image formats limit.
_FILES = {"plot": _PLOTS, "cam": _PLOTS, "embeddings": (".npz",)}


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
    parser.add_argument(
        "--cam",
        type=typed_path,
        metavar="FILE.png",
        help="draw class activation maps: where the network sees each of its best classes",
    )
    parser.add_argument(
        "--embeddings",
        type=typed_path,
        metavar="FILE.npz",
        help="write the features of each picture and the paths, as embeddings and paths",
    )
    network_flags.add_flags(parser)
    args = parser.parse_intermixed_args(argv)  # Allows pictures after flags.
    if args.top < 1:
        raise InputError(f"--top is {args.top}: it must be at least 1")
    if args.cam and args.crops != 1:
        raise InputError(f"--cam shows one crop of a picture: leave out --crops {args.crops}")
    command.use_compile_cache(args.compile_cache)
    paths = _paths(args.pictures)
    _check_files(args, paths)
    process.configure(jax_is_unused=True)
    network = network_flags.read(args)
    if not network.config.num_classes:
        for flag in ("json", "plot", "cam"):
            if getattr(args, flag):
                raise InputError(f"--{flag} shows classes, but the network has none: leave it out")
        if not args.embeddings:
            raise InputError("the network has no classes: set --embeddings to write its features")
    results = []
    if network.config.num_classes:
        results = _found(predict, network, paths, args, top=args.top)
        paths = [path for path, _ in results]  # Names unreadable pictures once.
        print(_as_json(results) if args.json else _as_text(results))
    if args.embeddings:
        _write_embeddings(args.embeddings, _found(embed, network, paths, args))
    if args.cam:
        from densenet_jax.analysis.gallery import plot_activation_maps

        maps = _found(class_activation_maps, network, paths, args)
        plot_activation_maps(maps, dict(results), args.cam)
    if args.plot:
        # Imports matplotlib, which takes long.
        from densenet_jax.analysis.gallery import plot_predictions

        plot_predictions(results, args.plot)


def _check_files(args: argparse.Namespace, paths: list[Path]) -> None:
    """Raises InputError if a file of a flag cannot be written, or would replace another one."""
    uses: dict[Path, str] = {}
    for flag, endings in _FILES.items():
        path: Path | None = getattr(args, flag)
        if path is None:
            continue
        if path.suffix not in endings:
            raise InputError(f"--{flag} is {path}: it must end in {', '.join(endings)}")
        if not path.parent.is_dir():
            raise InputError(
                f"--{flag} is in {path.parent}, which is not a directory: create it first"
            )
        if (place := path.resolve()) in uses:
            raise InputError(f"--{flag} is {path}, as is {uses[place]}: name another file")
        uses[place] = f"--{flag}"
        check_writable(path.parent, f"the directory of --{flag},")
        if path.exists():
            raise InputError(f"--{flag} is {path}, which exists: remove it, or name another file")
        if flag != "embeddings" and len(paths) > _MOST_DRAWN:
            raise InputError(
                f"--{flag} draws all pictures into one file, and there are {len(paths):,}: name at "
                f"most {_MOST_DRAWN}"
            )


def _found(
    function: Callable, network: Network, paths: list[Path], args: argparse.Namespace, **options
) -> list[tuple[Path, Any]]:
    """Returns the result of `function` for each picture that can be read."""
    found = network_flags.apply(function, network, paths, args, **options)
    pairs = zip(paths, found, strict=True)
    return [(path, result) for path, result in pairs if result is not None]


def _write_embeddings(file: Path, found: list[tuple[Path, np.ndarray]]) -> None:
    embeddings = np.stack([features for _, features in found]).astype(np.float32)
    content = io.BytesIO()
    np.savez(content, embeddings=embeddings, paths=np.array([str(path) for path, _ in found]))
    write_durably(file, content.getvalue())
    count, width = embeddings.shape
    # Not to stdout, which --json may have filled with JSON.
    print(f"wrote {counted(width, 'feature')} of {counted(count, 'picture')} to {file}",
          file=sys.stderr)  # fmt: skip


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
