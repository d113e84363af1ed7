"""The small run that most tests share, and helpers that start commands."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from ml_collections import ConfigDict

from densenet_jax.train.config import base_config
from densenet_jax.train.record import RunDirectory

ROOT = Path(__file__).parents[1]
QUICKSTART = ROOT / "experiments" / "quickstart.py"

# Everything random is on, some images are held out, and the last batch of an epoch is short: 1400
# images are 21 batches of 64 and one of 56.
RUN = {
    "epochs": 4,
    "checkpoint_every_epochs": 2,
    "model.name": "densenet_bc_k12_d22",
    "model.growth_rate": 4,
    "model.block_config": (1, 1),
    "model.dropout_rate": 0.2,
    "data.name": "digits",
    "data.holdout": 37,
    "data.augment": True,
    "data.crop_padding": 1,
    "data.flip": False,
}
STEPS_PER_EPOCH = 22
# A small network of the catalogue, for images with three channels.
CLASSIFIER = "densenet_bc_k4_d10"
# Changes to `RUN` that leave one layer and nothing random: quick to compile.
PLAIN = {
    "model.block_config": (1,),
    "model.bottleneck": 0,
    "model.dropout_rate": 0.0,
    "data.augment": False,
}


# Template of a sweep file, for `settings` and an expression for its `points`.
SWEEP_FILE = """
from densenet_jax.train.config import base_config
from densenet_jax.train.record import RunDirectory

def get_config():
    config = base_config()
    config.update_from_flattened_dict({settings!r})
    return config

def get_hyper(hyper):
    return {points}
"""


def config(changes: dict | None = None) -> ConfigDict:
    """Returns the config of the small run with `changes`."""
    made = base_config()
    made.update_from_flattened_dict(RUN | (changes or {}))
    return made


def finish(
    directory, error: float, config: ConfigDict, official=True, params=1, extra=(), **changes
):
    """Writes the files of a finished run of `config` with `changes`; adds `extra` to its result."""
    config.update_from_flattened_dict(changes)
    run = RunDirectory(directory)
    run.start(config, {})
    result = {"test_error": error, "model": config.model.name, "data": config.data.name}
    result |= {"epochs": config.epochs, "seed": config.seed, "official_data": official}
    result |= {"params": params, "train_seconds": 10.0, "images_per_second": 100.0}
    run.finish(result | dict(extra))


def flags(changes: dict | None = None) -> list[str]:
    """Returns the flags after `--config experiments/quickstart.py` that give `config(changes)`."""
    return [f"--config.{key}={value}" for key, value in (RUN | (changes or {})).items()]


def snapshot(directory: Path) -> dict:
    """Returns the time of change and the content of each file in a directory, except locks."""
    return {
        str(path.relative_to(directory)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def start(
    *arguments, stdin=None, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **environment
) -> subprocess.Popen:
    """Starts Python with `arguments` in the repository; it can import the tests' helpers."""
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"} | environment,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        text=True,
    )


def free_address() -> str:
    """Returns HOST:PORT where a coordinator can listen."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def start_train(
    workdir: Path, *arguments: str, program=("-m", "launch.train"), **settings
) -> subprocess.Popen:
    """Starts `python -m launch.train` for the quickstart. For `settings` see `start`."""
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    return start(
        *(*program, "--config", "experiments/quickstart.py", "--workdir", workdir),
        *(["--compile_cache", cache] if cache else []),
        *arguments,
        **settings,
    )
