"""Prints the state of the points of a sweep."""

import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

from densenet_jax.errors import counted, printable
from launch.sweep.points import Point, Snapshot

_REFRESH_SECONDS = 2
_LOG_LINES = 3


def table(points: list[Point], snapshots: list[Snapshot]) -> Text:
    """Returns a line for each point. Rich's Table is too slow: it takes a millisecond a line."""
    lines = [["point", "state", "epoch", "error %", "images/s"]]
    for point, snapshot in zip(points, snapshots, strict=True):
        error, rate = snapshot.test_error, snapshot.images_per_second
        lines.append([
            point.name,
            snapshot.state,
            f"{snapshot.epoch}/{point.config.epochs}",
            "" if error is None else f"{error:.2f}",
            "" if rate is None else f"{rate:,}",
        ])  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([f"{v:{w}}" for v, w in zip(line, widths, strict=True)] for line in lines)
    return Text("\n".join(map("  ".join, padded)), no_wrap=True)


def show(points: list[Point], console: Console) -> None:
    """Prints the table. On a terminal, updates the table until no point is running."""
    snapshots = [point.snapshot() for point in points]
    if console.is_terminal:
        with Live(table(points, snapshots), console=console, auto_refresh=False) as live:
            while any(snapshot.state == "running" for snapshot in snapshots):
                time.sleep(_REFRESH_SECONDS)
                snapshots = [point.snapshot() for point in points]
                live.update(table(points, snapshots), refresh=True)
    else:
        console.print(table(points, snapshots))
    if found := problems(points, snapshots):
        console.print(f"\n{found}", markup=False)


def failures(points: list[Point], snapshots: list[Snapshot]) -> str:
    """Returns the exit status and the last log lines of each failed point."""
    parts = []
    for point, snapshot in zip(points, snapshots, strict=True):
        if snapshot.state == "failed":
            lines = [f"  {printable(line)}" for line in point.last_lines(_LOG_LINES)]
            parts.append(f"{point.name} failed with status {point.exit_status()}:")
            parts += [*lines, f"  (full log: {point.file('log')})"]
    return "\n".join(parts)


def problems(points: list[Point], snapshots: list[Snapshot]) -> str:
    """Returns the number of unusable points and a line for each; "" if there are none."""
    found = [(p.name, s.problem) for p, s in zip(points, snapshots, strict=True) if s.problem]
    if not found:
        return ""
    lines = [f"  {name}: {printable(problem)}" for name, problem in found]
    return "\n".join([f"{counted(len(found), 'point')} cannot be used:", *lines])
