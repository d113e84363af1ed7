"""Copy ImageNet to ArrayRecord files, which are fast to read.

    python -m launch.prepare --data_directory DIR --out COPY

DIR holds ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar; or train/CLASS/*.JPEG and
val/CLASS/*.JPEG; or TFRecord files of TensorFlow Datasets. COPY has the layout of TensorFlow
Datasets. Every picture is decoded once, as a check, and copied byte for byte. The same command
resumes an interrupted copy. Train with --config.data.directory=COPY afterwards; DIR is no longer
needed.
"""

import sys
import time
from collections.abc import Iterable

from rich.console import Console
from rich.progress import track

from densenet_jax.data import imagenet
from densenet_jax.data.pictures import MAX_PIXELS
from densenet_jax.data.prepare import Copy
from densenet_jax.errors import counted
from launch import command, network_flags
from launch.paths import typed_path

_REPORT_SECONDS = 60  # Time between progress lines where there is no progress bar.


def main(argv: list[str] | None = None) -> None:
    parser = command.parser(__doc__, compiles=False)
    parser.add_argument(
        "--data_directory",
        type=typed_path,
        required=True,
        metavar="DIR",
        help="ImageNet, see above",
    )
    parser.add_argument(
        "--out", type=typed_path, required=True, metavar="COPY", help="created if missing"
    )
    parser.add_argument(
        "--skip_broken", action="store_true", help="skip pictures that cannot be decoded"
    )
    network_flags.add_max_pixels(parser)
    args = parser.parse_args(argv)
    parts = imagenet.find(args.data_directory)
    max_pixels = MAX_PIXELS if args.max_pixels is None else args.max_pixels
    copy = Copy(parts, args.out, args.skip_broken, max_pixels)
    try:
        _write(copy)
    finally:
        for sentence in copy.broken:
            print(sentence, file=sys.stderr)
    skipped = f", {len(copy.broken):,} skipped" if copy.broken else ""
    print(f"{args.out} holds {counted(copy.written, 'picture')}{skipped}")


def _write(copy: Copy) -> None:
    """Writes the copy. Shows a progress bar on a terminal and prints lines elsewhere."""
    console = Console(stderr=True)
    finished: Iterable[int] = copy.write()
    if console.is_terminal:
        finished = track(finished, "pictures", copy.shards, console=console)
    reported, done = time.monotonic(), 0
    for pictures in finished:
        done += pictures
        if not console.is_terminal and time.monotonic() - reported > _REPORT_SECONDS:
            print(f"{done:,} of {counted(copy.pictures, 'picture')}", file=sys.stderr)
            reported = time.monotonic()


if __name__ == "__main__":
    sys.exit(command.run(main))
