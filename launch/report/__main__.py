"""Write tables and figures of measured results beside the published ones.

    python -m launch.report table2 --runs runs --out report
    python -m launch.report fig8 --out report
    python -m launch.report figures --runs runs --out report

Reads the finished runs anywhere in a directory and writes a report:

  table2, table3  NAME.md, .csv, .png, .svg and .pdf: a table of the CVPR paper; other runs also in
                  NAME-other-runs.csv
  figN            NAME.csv, .png, .svg and .pdf: a figure of the journal paper (TPAMI)
  figures         all figures, and a contact sheet
  snapshots       snapshots.md and .csv: snapshot ensembles beside the published ones
  sweep           error and size of runs whose configs differ, one row for each combination of keys
  profile         gradient norms and feature reuse of each layer, for each run
  results         the table of a record of runs, such as experiments/results, and a figure for each
                  directory in it; --readme also writes the table into a file
  augmentations   augmentations.png: a photograph after each random change of training images
  keep            copies configs, environments, curves and results of runs to --out, for a record;
                  --weights also stores each network

Without --runs, tables and figures show the published numbers only. A run reproduces a cell or a
point only if it followed the paper's protocol on the official data; seed, remat and checkpoint
interval may differ. Tables list all other runs below; figures show them in separate panels. A run
that cannot be read is reported and skipped.
"""

import argparse
import sys
from pathlib import Path

from densenet_jax.errors import InputError, counted, printable
from launch import command
from launch.paths import typed_path
from launch.report import augmentations, memory, panels, results, snapshots, sweep, tables
from launch.report.contact_sheet import contact_sheet
from launch.report.figures import FIGURES
from launch.report.runs import Found, Run, find_runs
from launch.report.table_plot import plot_table

_FIGURES = sorted([*FIGURES, "fig6", "fig7"], key=lambda name: int(name.removeprefix("fig")))
_OF_RUNS = ("sweep", "profile", "results", "keep")  # Reports that show no published numbers.


def main(argv: list[str] | None = None) -> None:
    parser = command.parser(__doc__, compiles=False)
    parser.add_argument(
        "name",
        choices=[*tables.TABLES, "snapshots", *_FIGURES, "figures", "augmentations", *_OF_RUNS],
        help="the report to write",
    )
    parser.add_argument(
        "--runs",
        type=typed_path,
        help="directory that holds runs; without it: published numbers",
    )
    parser.add_argument(
        "--out", type=typed_path, help="directory to write to (default: report); keep requires it"
    )
    parser.add_argument(
        "--readme",
        type=typed_path,
        metavar="FILE",
        help="results: README to update with the table",
    )
    parser.add_argument(
        "--weights",
        action="store_true",
        help="keep: also store each network's weights, with a model card",
    )
    args = parser.parse_args(argv)
    if args.name == "keep" and not args.out:
        raise InputError("keep needs --out, such as experiments/results/NAME")
    if args.weights and args.name != "keep":
        raise InputError(f"--weights is for keep, not for {args.name}: remove it")
    if args.runs and args.name == "augmentations":
        raise InputError("augmentations shows no runs: remove --runs")
    args.out = args.out or Path("report")
    found = find_runs(args.runs) if args.runs else Found([], [], [])
    for problem in found.broken:
        print(f"skipped: {problem}", file=sys.stderr)
    try:
        summary = _report(args, found)
    except OSError as error:
        raise InputError(f"cannot write to {error.filename}: {error.strerror}") from error
    if args.name != "augmentations":
        summary += f", {len(found.unfinished)} unfinished"
    broken = f", {len(found.broken)} broken" if found.broken else ""
    print(f"{summary}{broken}. Written to {args.out}")


def _report(args: argparse.Namespace, found: Found) -> str:
    """Writes the report `args.name`; returns a summary without a full stop."""
    name, root, out, runs = args.name, args.runs, args.out, found.finished
    if name in _OF_RUNS:
        if not runs:
            raise InputError("no run is finished yet: see launch.sweep --status")
        if name == "results":
            print(results.write(runs, root, out, args.readme))
        elif name == "keep":
            results.keep(runs, root, out, args.weights)
        elif name == "sweep":
            print(sweep.write(runs, out))
        else:
            from launch.report import profile  # Importing Orbax and Grain takes a second.

            print(profile.write(runs, out))
        return f"{counted(len(runs), 'run')} finished"
    out.mkdir(parents=True, exist_ok=True)
    if name == "augmentations":
        augmentations.draw(out / "augmentations.png")
        return counted(len(augmentations.ROWS), "change")
    if name in tables.TABLES:
        return _table(name, runs, out)
    if name == "snapshots":
        return snapshots.write(runs, out)
    names = _FIGURES if name == "figures" else [name]
    plans = memory.find_plans(root) if root and "fig7" in names else []
    summaries = [_figure(each, runs, plans, out, explains=each == name) for each in names]
    if name == "figures":
        contact_sheet([out / f"{name}.png" for name in names], out / "contact_sheet.png")
    return "; ".join(summaries)


def _table(name: str, runs: list[Run], out: Path) -> str:
    table = tables.TABLES[name](runs)
    text = tables.markdown(table)
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    tables.write_csv(table, out / f"{name}.csv")
    if table.others:
        tables.write_others(table, out / f"{name}-other-runs.csv")
    plot_table(table, out)
    print(text)
    cells = [cell for row in table.rows for cell in row.cells.values()]
    measured = sum(bool(cell.measured.errors) for cell in cells)
    others = counted(len(table.others), "other run")
    return f"{measured} of {counted(len(cells), 'cell')} measured, {others}"


def _figure(name: str, runs: list[Run], plans: list[dict], out: Path, explains: bool) -> str:
    """Writes a figure; returns a summary.

    Args:
      explains: whether to print why runs are not in fig6. The other figures take any network.
    """
    if name == "fig6":
        from launch.report import heat_map  # Importing Orbax takes half a second.

        rows, skipped = heat_map.fig6(runs)
        for problem in skipped if explains else []:
            print(f"skipped: {printable(problem)}", file=sys.stderr)
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
