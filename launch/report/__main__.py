"""Put what was measured beside what was published.

    python -m launch.report table2 --runs runs --out report

Reads the finished runs anywhere in a folder, and writes NAME.md, NAME.csv, NAME.png and NAME.svg.
A run counts as a reproduction of a cell only if it followed that cell's config on the official
data; seed, remat and how often it was saved may differ. All other runs are listed below the table.
"""

import argparse
import sys
from pathlib import Path

from densenet_jax.errors import InputError
from launch import command
from launch.report import tables
from launch.report.plot import plot_table
from launch.report.runs import find_runs


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m launch.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", choices=tables.TABLES, help="what to report")
    parser.add_argument("--runs", required=True, type=Path, help="folder of run directories")
    parser.add_argument("--out", required=True, type=Path, help="folder to write to")
    args = parser.parse_args(argv)
    runs, unfinished = find_runs(args.runs)
    table = tables.TABLES[args.name](runs)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        text = tables.markdown(table)
        (args.out / f"{table.name}.md").write_text(text)
        tables.write_csv(table, args.out / f"{table.name}.csv")
        plot_table(table, args.out)
    except OSError as error:
        raise InputError(f"cannot write to {error.filename}: {error.strerror}.") from error
    print(text)
    cells = [cell for row in table.rows for cell in row.cells.values()]
    print(
        f"{sum(bool(cell.measured) for cell in cells)} of {len(cells)} cells measured, "
        f"{len(table.others)} other runs, {len(unfinished)} unfinished. "
        f"Written to {args.out}/{table.name}.md, .csv, .png, .svg"
    )


if __name__ == "__main__":
    sys.exit(command.run(main))
