"""How every picture of this project looks: legible in print, and to colour-blind readers."""

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from densenet_jax.files import write_durably

# Okabe and Ito's, which colour-blind people can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
FORMATS = ("png", "svg", "pdf")

_SETTINGS = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # Text stays text.
    "savefig.dpi": 150,
    "svg.hashsalt": "densenet_jax",  # The same picture is the same file.
}


def styled(draw: Callable) -> Callable:
    """Decorates a function that draws: its figures get this style, and the user's stays as it is.

    Such functions make a `matplotlib.figure.Figure` themselves. `pyplot` would choose a backend for
    the whole process, and open windows.
    """
    return matplotlib.rc_context(_SETTINGS)(draw)


def save(figure: Figure, path: Path) -> None:
    """Writes `figure` to `path`, or to PATH.png, .svg and .pdf if it has no suffix."""
    paths = [path] if path.suffix else [path.with_suffix(f".{kind}") for kind in FORMATS]
    undated = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    for file in paths:
        drawn = io.BytesIO()
        metadata = undated.get(file.suffix)
        figure.savefig(drawn, format=file.suffix.removeprefix("."), metadata=metadata)
        write_durably(file, drawn.getvalue())
