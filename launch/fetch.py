"""Download a data set, and check its files.

    python -m launch.fetch cifar10

NAME is cifar10, cifar100, svhn or fashion_mnist. The files are stored in a subdirectory of
$DENSENET_JAX_DATA, or else of densenet_jax/data in the user's cache (XDG_CACHE_HOME or ~/.cache),
where all configs find them without data.directory. Sizes and SHA-256 digests are those in the
registry of TensorFlow Datasets. The same command resumes an interrupted download.
"""

import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from densenet_jax.data import download, places, registry
from densenet_jax.errors import InputError
from launch import command
from launch.paths import typed_path

_REPORT_SECONDS = 10  # Time between progress lines where there is no progress bar.
_MEGABYTE = 10**6


def main(argv: list[str] | None = None) -> None:
    parser = command.parser(__doc__, compiles=False)
    parser.add_argument("name", metavar="NAME", help="the data set, see above")
    parser.add_argument(
        "--out",
        type=typed_path,
        metavar="DIR",
        help="store the files in DIR instead; train with --config.data.directory=DIR",
    )
    parser.add_argument(
        "--url",
        metavar="URL",
        help="download from this directory of another server, which has files of the same names",
    )
    args = parser.parse_args(argv)
    registry.check_name(args.name)
    directory = args.out or places.set_directory(args.name)
    if directory is None:
        raise InputError(
            f"there is no home directory: use --out, or set {places.DATA_VARIABLE} to a directory"
        )
    _show(download.fetch(args.name, directory, args.url))
    flag = f"; train with --config.data.directory={args.out}" if args.out else ""
    print(f"{directory} has all files of {args.name}, with the published SHA-256 digests{flag}")


def _show(events: Iterator[download.Event]) -> None:
    """Shows a progress bar for each file on a terminal, and prints lines elsewhere."""
    console = Console(stderr=True)
    if console.is_terminal:
        _show_bars(events, console)
        return
    reported = time.monotonic()
    for file, done, is_stored in events:
        size = f"{file.size / _MEGABYTE:,.1f} MB"
        if is_stored:
            print(f"{file.name}: {size}, checked", file=sys.stderr)
        elif time.monotonic() - reported > _REPORT_SECONDS:
            print(f"{file.name}: {done / _MEGABYTE:,.1f} of {size}", file=sys.stderr)
            reported = time.monotonic()


def _show_bars(events: Iterator[download.Event], console: Console) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bars:
        tasks: dict[str, TaskID] = {}
        for file, done, _ in events:
            if file.name not in tasks:
                tasks[file.name] = bars.add_task(file.name, total=file.size)
            bars.update(tasks[file.name], completed=done)


if __name__ == "__main__":
    sys.exit(command.run(main))
