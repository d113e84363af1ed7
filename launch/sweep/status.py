"""What has become of the points of a sweep, for people."""

import time

from rich.console import Console
from rich.live import Live
from rich.table import Table

from launch.sweep.points import Point, describe

_REFRESH_SECONDS = 2
_LOG_LINES = 3


def table(points: list[Point]) -> Table:
    shown = Table("point", "state", "epoch", "error %", "images/s", box=None, pad_edge=False)
    for point in points:
        found = describe(point)
        error, rate = found["test_error"], found["images_per_second"]
        shown.add_row(
            found["name"],
            found["state"],
            f"{found['epoch']}/{found['epochs']}",
            "" if error is None else f"{error:.2f}",
            "" if rate is None else f"{rate:,}",
        )
    return shown


def show(points: list[Point], console: Console) -> None:
    """Prints the table; on a terminal, again and again until nothing runs any more."""
    if not console.is_terminal:
        console.print(table(points))
        return
    with Live(table(points), console=console, auto_refresh=False) as live:
        while any(point.state() == "running" for point in points):
            time.sleep(_REFRESH_SECONDS)
            live.update(table(points), refresh=True)


def failures(points: list[Point]) -> str:
    """Of each point that failed: its exit status and the last lines of its log."""
    parts = []
    for point in points:
        if point.state() == "failed":
            lines = [f"  {line}" for line in point.last_lines(_LOG_LINES)]
            parts.append(f"{point.name} failed with status {point.exit_status()}:")
            parts += [*lines, f"  (all of it: {point.file('log')})"]
    return "\n".join(parts)
