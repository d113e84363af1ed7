"""How every picture of this project looks: legible in print, and to colour-blind readers."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # No window: pictures go to files.

import matplotlib.pyplot as plt

# Okabe and Ito's, which colour-blind people can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
FORMATS = ("png", "svg", "pdf")

plt.rcParams.update(
    {
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
)


def save(figure, path: Path) -> None:
    """Writes `figure` to `path`, or to PATH.png, .svg and .pdf if it has no suffix."""
    paths = [path] if path.suffix else [path.with_suffix(f".{kind}") for kind in FORMATS]
    undated = {".png": {}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    for file in paths:
        figure.savefig(file, metadata=undated.get(file.suffix))
    plt.close(figure)
