"""Prints, as JSON, what importing and using densenet_jax changes in this process."""

import gc
import importlib
import json
import locale
import logging
import os
import pkgutil
import random
import signal
import sys
import threading
import warnings
from pathlib import Path

import cv2
import flax.nnx
import grain
import jax
import matplotlib.figure
import ml_collections.config_flags
import numpy as np
import optax
import orbax.checkpoint
import PIL.ImageFile
import rich.progress
import simplejpeg
import tensorboardX
from absl import flags

# These libraries are imported first, because some of them change the process.
OTHERS = (flax, grain, ml_collections, optax, orbax, rich, simplejpeg, tensorboardX)


def state() -> dict[str, str]:
    """Returns the state of the process that a library must not change, as text."""
    loggers = [logging.getLogger(name) for name in (None, "absl", "jax", "densenet_jax")]
    found = {
        "OpenCV's threads": cv2.getNumThreads(),
        "environment": dict(os.environ),
        "JAX's config": jax.config.values,
        "warnings": warnings.filters,
        "loggers": [(log.level, log.handlers, log.disabled, log.propagate) for log in loggers],
        # dict.items does not look up the backend, which would choose one.
        "matplotlib's settings": list(dict.items(matplotlib.rcParams)),
        "hidden modules": [name for name, module in sys.modules.items() if module is None],
        "path": sys.path,
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook),
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "garbage collection": (gc.isenabled(), gc.get_threshold()),
        "switch interval": sys.getswitchinterval(),
        "recursion limit": sys.getrecursionlimit(),
        "locale": locale.setlocale(locale.LC_ALL),
        "directory": Path.cwd(),
        "NumPy": (np.geterr(), np.get_printoptions(), np.random.get_state()[1].tolist()),
        "random": random.getstate(),
        "flags": (flags.FLAGS.is_parsed(), sorted(flags.FLAGS)),
        "Pillow": (PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES),
    }
    return {name: repr(value) for name, value in found.items()}


def use(directory: Path) -> None:
    """Crops a picture, logs a line and draws a figure, each of which could change the process."""
    from densenet_jax.analysis import style
    from densenet_jax.data.random_crop import random_crop
    from densenet_jax.train.tensorboard import event_log

    data = simplejpeg.encode_jpeg(np.zeros((32, 32, 3), np.uint8))
    random_crop(data, 16, np.random.default_rng(0))
    with event_log(directory, 0) as log:
        log({"step": 1, "train_loss": 0.5})

    @style.styled
    def draw() -> None:
        figure = matplotlib.figure.Figure()
        assert not figure.subplots().spines["top"].get_visible()
        style.save(figure, directory / "figure")

    draw()


before = state()
path = importlib.import_module("densenet_jax").__path__
names = [module.name for module in pkgutil.walk_packages(path, "densenet_jax.")]
for name in names:
    importlib.import_module(name)
imported = state()
use(Path(sys.argv[1]))
used = state()
changes = {
    name: [value, imported[name], used[name]]
    for name, value in before.items()
    if not value == imported[name] == used[name]
}
print(json.dumps({"modules": names, "changes": changes}))
