"""What has become of the points of a sweep, for people."""

import time

from rich.console import Console
from rich.live import Live
from rich.text import Text

from densenet_jax.errors import counted, printable
from launch.sweep.points import Look, Point

_REFRESH_SECONDS = 2
_LOG_LINES = 3


def table(points: list[Point], looks: list[Look]) -> Text:
    """Returns a line for each point. Rich's own Table would take a millisecond for a line."""
    lines = [["point", "state", "epoch", "error %", "images/s"]]
    for point, look in zip(points, looks, strict=True):
        error, rate = look.test_error, look.images_per_second
        lines.append([
            point.name,
            look.state,
            f"{look.epoch}/{point.config.epochs}",
            "" if error is None else f"{error:.2f}",
            "" if rate is None else f"{rate:,}",
        ])  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([f"{v:{w}}" for v, w in zip(line, widths, strict=True)] for line in lines)
    return Text("\n".join(map("  ".join, padded)), no_wrap=True)


def show(points: list[Point], console: Console) -> None:
    """Prints the table; on a terminal, again and again until nothing runs any more."""
    looks = [point.look() for point in points]
    if console.is_terminal:
        with Live(table(points, looks), console=console, auto_refresh=False) as live:
            while any(look.state == "running" for look in looks):
                time.sleep(_REFRESH_SECONDS)
                looks = [point.look() for point in points]
                live.update(table(points, looks), refresh=True)
    else:
        console.print(table(points, looks))
    if found := problems(points, looks):
        console.print(f"\n{found}", markup=False)


def failures(points: list[Point], looks: list[Look]) -> str:
    """Returns the exit status and the last lines of the log of each point that failed."""
    parts = []
    for point, look in zip(points, looks, strict=True):
        if look.state == "failed":
            lines = [f"  {printable(line)}" for line in point.last_lines(_LOG_LINES)]
            parts.append(f"{point.name} failed with status {point.exit_status()}:")
            parts += [*lines, f"  (all of it: {point.file('log')})"]
    return "\n".join(parts)


def problems(points: list[Point], looks: list[Look]) -> str:
    """Returns how many points are broken, and a line for each; "" if none is."""
    found = [(p.name, k.problem) for p, k in zip(points, looks, strict=True) if k.problem]
    if not found:
        return ""
    lines = [f"  {name}: {printable(problem)}" for name, problem in found]
    return "\n".join([f"{counted(len(found), 'point')} cannot be used:", *lines])
