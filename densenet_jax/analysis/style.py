"""Styles the figures of this project, for print and for colour-blind readers."""

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from densenet_jax.files import write_durably

# The palette of Okabe and Ito, which colour-blind readers can distinguish.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
FORMATS = ("png", "svg", "pdf")


def styled(draw: Callable) -> Callable:
    """Decorates a function that draws: its figures get this style, and the user's style is kept.

    The function must create a `matplotlib.figure.Figure` itself. `pyplot` would choose a backend
    for the whole process and open windows.
    """
    return matplotlib.rc_context(
        {
            "axes.grid": True,
            "axes.spines.right": False,
            "axes.spines.top": False,
            "figure.constrained_layout.use": True,
            "grid.alpha": 0.3,
            "legend.frameon": False,
            "pdf.fonttype": 42,  # Keeps text as text.
            "savefig.dpi": 150,
            "svg.hashsalt": "densenet_jax",  # Equal figures give equal files.
        }
    )(draw)


def save(figure: Figure, path: Path) -> None:
    """Writes `figure` to `path`, or to PATH.png, .svg and .pdf if it has no suffix."""
    paths = [path] if path.suffix else [path.with_suffix(f".{kind}") for kind in FORMATS]
    undated = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    for file in paths:
        drawn = io.BytesIO()
        metadata = undated.get(file.suffix)
        with warnings.catch_warnings():  # Boxes stand for the letters of other scripts.
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure.savefig(drawn, format=file.suffix.removeprefix("."), metadata=metadata)
        write_durably(file, drawn.getvalue())
        figure.set_layout_engine("none")  # The other files get the layout that this one found.
