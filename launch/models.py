"""List the networks of the catalogue.

    python -m launch.models 'densenet*'

Prints a row for each network and each set of published weights: parameters, multiply-adds of one
image, the side of the image, published accuracy on ImageNet in percent, and the name of the weights
for `--weights`. Networks for small images have 10 classes, the others 1000. Counts are computed, so
the whole table takes a minute.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from densenet_jax import pretrained
from densenet_jax.analysis.counts import count_macs, count_params
from densenet_jax.models.catalog import list_models, model_config
from experiments import published
from launch import command

_COLUMNS = ("network", "parameters", "MACs", "input", "top-1", "top-5", "weights")
_WIDTHS = (22, 12, 8, 6, 6, 6)  # The last column has no width.
_RIGHT = range(1, 6)  # Columns of numbers.


class Row(NamedTuple):
    """A network with one set of weights, or without weights.

    Attributes:
      macs: multiply-adds for one image, counted as in the papers.
      input_size: side of the image in pixels.
      top1, top5: published accuracy on ImageNet in percent; None if there is none.
      weights: name of the published weights; None if there are none.
    """

    name: str
    params: int
    macs: int
    input_size: int
    top1: float | None
    top5: float | None
    weights: str | None

    def cells(self) -> list[str]:
        accuracies = ["" if x is None else f"{x:.2f}" for x in (self.top1, self.top5)]
        size = [f"{self.params:,}", f"{self.macs / 1e9:.2f} G", str(self.input_size)]
        return [self.name, *size, *accuracies, self.weights or ""]


def main(argv: list[str] | None = None) -> None:
    parser = command.parser(__doc__, compiles=False)
    parser.add_argument(
        "pattern",
        nargs="?",
        default="*",
        help="a name or a shell-style pattern (default: all)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON array")
    parser.add_argument("--markdown", action="store_true", help="print a table in Markdown")
    args = parser.parse_args(argv)
    names = list_models(args.pattern) or [args.pattern]  # Such as densenet_bc_k12_d22.
    for name in names:
        model_config(name)  # Raises InputError for an unknown name.
    found = (row for name in names for row in rows(name))
    if args.json:
        print(json.dumps([row._asdict() for row in found], indent=2))
    else:
        line = _markdown_line if args.markdown else _text_line
        print(line(_COLUMNS))
        if args.markdown:
            print("|---" + "".join("|---:" if i in _RIGHT else "|---" for i in range(1, 7)) + "|")
        for row in found:
            print(line(row.cells()), flush=True)


def rows(name: str) -> Iterator[Row]:
    """Yields a row for each set of weights of a network, or a single row."""
    config = model_config(name)
    params = count_params(config)
    for repository in pretrained.REPOSITORIES.get(name, (None,)):
        tag = repository and repository.partition(".")[2]
        preprocessing = tag and pretrained.preprocessing_of_file(Path(f"{name}.{tag}"), config)
        is_small = getattr(config, "stem", "cifar") == "cifar" and "rdnet" not in name
        size = preprocessing.crop.size if preprocessing else 32 if is_small else 224
        top1, top5 = _accuracy(name, tag)
        weights = f"{name}.{tag}" if tag else None
        yield Row(name, params, count_macs(config, size, size), size, top1, top5, weights)


def _accuracy(name: str, tag: str | None) -> tuple[float | None, float | None]:
    """Returns the published top-1 and top-5 accuracy of weights, or else that of the papers."""
    if tag:
        return published.PRETRAINED.get(name, {}).get(f"timm {tag}", (None, None))
    if name in published.TABLE3:
        errors = published.TABLE3[name].errors
        return 100 - errors["top1"], 100 - errors["top5"]
    return None, None


def _text_line(cells: Sequence[str]) -> str:
    padded = [
        f"{cell:>{width}}" if i in _RIGHT else f"{cell:{width}}"
        for i, (cell, width) in enumerate(zip(cells, _WIDTHS, strict=False))
    ]
    return "  ".join([*padded, cells[-1]]).rstrip()


def _markdown_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.exit(command.run(main))
