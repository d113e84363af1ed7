"""Put what was measured beside what was published.

    python -m launch.report table2 --runs runs --out report

Reads the finished runs anywhere in a folder, and writes NAME.md, NAME.csv, NAME.png and NAME.svg.
A run counts as a reproduction of a cell only if it followed that cell's config on the official
data; seed, remat and how often it was saved may differ. All other runs are listed below the table.
`sweep` tells what came of any runs that differ in some keys of their configs.
"""

import sys
from pathlib import Path

from densenet_jax.errors import InputError
from launch import command
from launch.report import sweep, tables
from launch.report.plot import plot_table
from launch.report.runs import Run, find_runs


def main(argv: list[str] | None = None) -> None:
    parser = command.parser(__doc__, compiles=False)
    parser.add_argument("name", choices=[*tables.TABLES, "sweep"], help="what to report")
    parser.add_argument("--runs", required=True, type=Path, help="folder of run directories")
    parser.add_argument("--out", required=True, type=Path, help="folder to write to")
    args = parser.parse_args(argv)
    runs, unfinished = find_runs(args.runs)
    report = _sweep if args.name == "sweep" else _table
    try:
        summary = report(args.name, runs, args.out)
    except OSError as error:
        raise InputError(f"cannot write to {error.filename}: {error.strerror}.") from error
    print(
        f"{summary}, {len(unfinished)} unfinished. "
        f"Written to {args.out}/{args.name}.md, .csv, .png, .svg"
    )


def _table(name: str, runs: list[Run], out: Path) -> str:
    table = tables.TABLES[name](runs)
    out.mkdir(parents=True, exist_ok=True)
    text = tables.markdown(table)
    (out / f"{name}.md").write_text(text)
    tables.write_csv(table, out / f"{name}.csv")
    plot_table(table, out)
    print(text)
    cells = [cell for row in table.rows for cell in row.cells.values()]
    measured = sum(bool(cell.measured.errors) for cell in cells)
    return f"{measured} of {len(cells)} cells measured, {len(table.others)} other runs"


def _sweep(name: str, runs: list[Run], out: Path) -> str:
    if not runs:
        raise InputError("no run of this sweep is finished yet: see launch.sweep --status.")
    print(sweep.write(runs, out))
    return f"{len(runs)} runs finished"


if __name__ == "__main__":
    sys.exit(command.run(main))
