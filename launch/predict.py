"""Say what is in pictures.

    python -m launch.predict cat.jpg dogs/ 'holiday/*.png' --model densenet121 --weights FILE

    python -m launch.predict cat.jpg --weights runs/pets

Pictures that cannot be read are reported and passed over. Of a folder all pictures are taken, those
of its folders as well.
"""

import dataclasses
import glob
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import track

from densenet_jax.data.pictures import ENDINGS
from densenet_jax.errors import InputError
from densenet_jax.predict import Prediction, predict
from launch import command, network


def main(argv: list[str] | None = None) -> None:
    parser = command.parser(__doc__)
    parser.add_argument("pictures", nargs="+", metavar="IMAGE", help="a file, a folder or a glob")
    parser.add_argument("--top", type=int, default=5, help="classes to tell of (%(default)s)")
    parser.add_argument("--batch_size", type=int, default=32, help="(%(default)s)")
    parser.add_argument("--json", action="store_true", help="print a JSON array")
    parser.add_argument("--plot", metavar="FILE.png", help="draw the pictures with their classes")
    network.add_flags(parser)
    group = parser.add_argument_group("preprocessing", "By default as the weights' name tells.")
    group.add_argument("--resize", type=int, metavar="PIXELS", help="of the short side, before")
    group.add_argument("--crop", type=int, metavar="PIXELS", help="side of the square cut out")
    group.add_argument("--interpolation", choices=("bilinear", "bicubic"))
    args = parser.parse_intermixed_args(argv)  # Pictures may come after flags as well.
    for name in ("top", "batch_size", "num_classes"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} is {getattr(args, name)}: it must be at least 1.")
    command.use_compile_cache(args.compile_cache)
    paths = _paths(args.pictures)
    command.keep_memory()
    model, preprocessing, classes = network.read(args)
    given = {"resize": args.resize, "size": args.crop, "interpolation": args.interpolation}
    given = {name: value for name, value in given.items() if value is not None}
    crop = dataclasses.replace(preprocessing.crop, **given)
    broken = set()

    def on_error(number: int, error: InputError) -> None:
        broken.add(number)
        print(f"passed over: {error}", file=sys.stderr)

    found = predict(
        model,
        paths,
        top=args.top,
        preprocessing=dataclasses.replace(preprocessing, crop=crop),
        classes=classes,
        batch_size=min(args.batch_size, len(paths)),
        on_error=on_error,
    )
    console = Console(stderr=True)
    bar = track(found, "pictures", len(paths), console=console, disable=not console.is_terminal)
    found = list(bar)
    if len(broken) == len(paths):
        raise InputError("none of the pictures can be read.")
    results = [
        (path, predictions)
        for path, predictions in zip(paths, found, strict=True)
        if predictions is not None
    ]
    print(_as_json(results) if args.json else _as_text(results))
    if args.plot:
        from densenet_jax.analysis.gallery import plot_predictions  # matplotlib, needed only now.

        plot_predictions(results, Path(args.plot))


def _paths(given: list[str]) -> list[Path]:
    paths = []
    for text in given:
        if Path(text).is_dir():
            inside = [
                path for path in sorted(Path(text).rglob("*")) if path.suffix.lower() in ENDINGS
            ]
            if not inside:
                raise InputError(f"{text} holds no pictures ({', '.join(ENDINGS)}).")
            paths += inside
        elif Path(text).exists():
            paths.append(Path(text))
        elif matching := sorted(glob.glob(text, recursive=True)):  # noqa: PTH207 (may be absolute)
            paths += map(Path, matching)
        else:
            raise InputError(f"there is no picture {text}.")
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
        lines.append(str(path))
        lines += [f"  {p.probability:7.2%}  {p.name}" for p in predictions]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(command.run(main))
