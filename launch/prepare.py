"""Copy ImageNet into a form that is fast to read: ArrayRecord, as TensorFlow Datasets has it.

    python -m launch.prepare --data_directory DIR --out COPY

DIR holds ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar; or train/CLASS/*.JPEG and
val/CLASS/*.JPEG; or a copy as TFRecord. Every picture is decoded once to see whether it is sound,
and copied bit by bit. A copy that was interrupted goes on where it was. Then train with
--config.data.directory=COPY; DIR is needed no more.
"""

import sys
import time

from rich.console import Console
from rich.progress import track

from densenet_jax.data import imagenet
from densenet_jax.data.pictures import MAX_PIXELS
from densenet_jax.data.prepare import Copy
from densenet_jax.errors import counted
from launch import command, network
from launch.paths import typed_path

_SILENCE = 60  # Seconds after which a line says how far it is, where there is no bar.


def main(argv: list[str] | None = None) -> None:
    parser = command.parser(__doc__, compiles=False)
    parser.add_argument("--data_directory", type=typed_path, required=True, metavar="DIR")
    parser.add_argument(
        "--out", type=typed_path, required=True, metavar="COPY", help="made if missing"
    )
    parser.add_argument(
        "--skip_broken", action="store_true", help="leave out pictures that cannot be decoded"
    )
    network.add_max_pixels(parser)
    args = parser.parse_args(argv)
    parts = imagenet.find(args.data_directory)
    max_pixels = MAX_PIXELS if args.max_pixels is None else args.max_pixels
    copy = Copy(parts, args.out, args.skip_broken, max_pixels)
    try:
        _follow(copy)
    finally:
        for sentence in copy.broken:
            print(sentence, file=sys.stderr)
    left_out = f", {len(copy.broken):,} left out" if copy.broken else ""
    print(f"{args.out} holds {counted(copy.written, 'picture')}{left_out}.")


def _follow(copy: Copy) -> None:
    """Writes the copy, with a bar on a terminal and plain lines elsewhere."""
    console = Console(stderr=True)
    finished = copy.write()
    if console.is_terminal:
        finished = track(finished, "pictures", copy.shards, console=console)
    said, done = time.monotonic(), 0
    for pictures in finished:
        done += pictures
        if not console.is_terminal and time.monotonic() - said > _SILENCE:
            print(f"{done:,} of {counted(copy.pictures, 'picture')}", file=sys.stderr)
            said = time.monotonic()


if __name__ == "__main__":
    sys.exit(command.run(main))
