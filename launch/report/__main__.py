"""Put what was measured beside what was published.

    python -m launch.report table2 --runs runs --out report
    python -m launch.report fig8 --out report
    python -m launch.report figures --runs runs --out report

Reads the finished runs anywhere in a folder, and writes NAME.csv, .png, .svg and .pdf, and NAME.md
of tables. Without --runs it shows what is published. A run counts as a reproduction of a cell or a
point only if it followed the paper's protocol on the official data; seed, remat and how often it
was saved may differ. Other runs are listed below a table; in a figure they have panels of their
own. Figures have the numbers of the journal paper; `figures` draws all, and a contact sheet.
`sweep` tells what came of any runs that differ in some keys of their configs, and `profile` how
each layer of each run's network is used and taught. `results` is the table of a record of runs,
such as experiments/results, with a figure for each folder in it; --readme puts it into a file.
`keep` adds runs to a record: copies their configs, environments, curves and results to --out.
A run that cannot be read is named and left out.
"""

import argparse
import sys
from pathlib import Path

from densenet_jax.errors import InputError, counted
from launch import command
from launch.paths import typed_path
from launch.report import memory, panels, results, sweep, tables
from launch.report.contact_sheet import contact_sheet
from launch.report.figures import FIGURES
from launch.report.table_plot import plot_table
from launch.report.runs import Found, Run, find_runs

_FIGURES = sorted([*FIGURES, "fig6", "fig7"], key=lambda name: int(name.removeprefix("fig")))


def main(argv: list[str] | None = None) -> None:
    parser = command.parser(__doc__, compiles=False)
    parser.add_argument(
        "name",
        choices=[*tables.TABLES, *_FIGURES, "figures", "sweep", "profile", "results", "keep"],
        help="what to report",
    )
    parser.add_argument(
        "--runs", type=typed_path, help="folder of run directories; none: published only"
    )
    parser.add_argument(
        "--out", type=typed_path, help="folder to write to (report; keep needs one)"
    )
    parser.add_argument(
        "--readme", type=typed_path, metavar="FILE", help="of results: to be renewed"
    )
    args = parser.parse_args(argv)
    if args.name == "keep" and not args.out:
        raise InputError("keep needs --out, such as experiments/results/NAME.")
    args.out = args.out or Path("report")
    found = find_runs(args.runs) if args.runs else Found([], [], [])
    for problem in found.broken:
        print(f"left out: {problem}", file=sys.stderr)
    try:
        summary = _report(args, found)
    except OSError as error:
        raise InputError(f"cannot write to {error.filename}: {error.strerror}.") from error
    broken = f", {len(found.broken)} broken" if found.broken else ""
    print(f"{summary}, {len(found.unfinished)} unfinished{broken}. Written to {args.out}")


def _report(args: argparse.Namespace, found: Found) -> str:
    name, folder, out, runs = args.name, args.runs, args.out, found.finished
    if name in ("sweep", "profile", "results", "keep"):
        if not runs:
            raise InputError("no run is finished yet: see launch.sweep --status.")
        if name == "results":
            print(results.write(runs, folder, out, args.readme))
        elif name == "keep":
            results.keep(runs, folder, out)
        elif name == "sweep":
            print(sweep.write(runs, out))
        else:
            from launch.report import profile  # Imports Orbax and Grain, which takes a second.

            print(profile.write(runs, out))
        return f"{counted(len(runs), 'run')} finished"
    out.mkdir(parents=True, exist_ok=True)
    if name in tables.TABLES:
        return _table(name, runs, out)
    names = _FIGURES if name == "figures" else [name]
    plans = memory.find_plans(folder) if folder and "fig7" in names else []
    said = [_figure(name, runs, plans, out) for name in names]
    if name == "figures":
        contact_sheet([out / f"{name}.png" for name in names], out / "contact_sheet.png")
    return "; ".join(said)


def _table(name: str, runs: list[Run], out: Path) -> str:
    table = tables.TABLES[name](runs)
    text = tables.markdown(table)
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    tables.write_csv(table, out / f"{name}.csv")
    plot_table(table, out)
    print(text)
    cells = [cell for row in table.rows for cell in row.cells.values()]
    measured = sum(bool(cell.measured.errors) for cell in cells)
    others = counted(len(table.others), "other run")
    return f"{measured} of {counted(len(cells), 'cell')} measured, {others}"


def _figure(name: str, runs: list[Run], plans: list[dict], out: Path) -> str:
    if name == "fig6":
        from launch.report import heat_map  # Imports Orbax, which takes half a second.

        rows = heat_map.fig6(runs)
        heat_map.draw_fig6(rows, out)
        heat_map.write_csv(rows, out / "fig6.csv")
        return f"fig6: {counted(len(rows) - 1, 'network')} measured"
    figure = memory.fig7(runs, plans) if name == "fig7" else FIGURES[name](runs)
    panels.draw(figure, out)
    panels.write_csv(figure, out / f"{name}.csv")
    marks = [m for panel in figure.panels for series in panel.series for m in series.marks]
    measured = sum(bool(mark.seeds) for mark in marks)
    return f"{name}: {counted(len(marks) - measured, 'point')} published, {measured} measured"


if __name__ == "__main__":
    sys.exit(command.run(main))
