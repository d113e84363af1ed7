"""A small run that the tests of several rooms share, and how commands are started."""

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

# Everything random is on, something is held out, and the last batch of an epoch is short: 1400
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
# A network of the catalogue, which classifies pictures.
CLASSIFIER = "densenet_bc_k4_d10"
# Changes that leave a network of one layer without anything random: quickly compiled.
PLAIN = {
    "model.block_config": (1,),
    "model.bottleneck": 0,
    "model.dropout_rate": 0.0,
    "data.augment": False,
}


# A sweep file, given `settings` and the expression of its `points`.
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
    made = base_config()
    made.update_from_flattened_dict(RUN | (changes or {}))
    return made


def finish(folder, error: float, config: ConfigDict, official=True, params=1, told=(), **changes):
    """Leaves what a run of `config` with `changes` leaves at its end; in its result also `told`."""
    config.update_from_flattened_dict(changes)
    run = RunDirectory(folder)
    run.start(config, {})
    result = {"test_error": error, "model": config.model.name, "data": config.data.name}
    result |= {"epochs": config.epochs, "seed": config.seed, "official_data": official}
    result |= {"params": params, "train_seconds": 10.0, "images_per_second": 100.0}
    run.finish(result | dict(told))


def flags(changes: dict | None = None) -> list[str]:
    """What to type after `--config experiments/quickstart.py` for the same config."""
    return [f"--config.{key}={value}" for key, value in (RUN | (changes or {})).items()]


def snapshot(folder: Path) -> dict:
    """Everything in a folder but locks: contents, and when they were written."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def start(
    *arguments, stdin=None, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **environment
) -> subprocess.Popen:
    """Starts Python on `arguments` in the repository, with the tests' modules at hand."""
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
    """HOST:PORT where a coordinator can listen."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def start_train(
    workdir: Path, *arguments: str, program=("-m", "launch.train"), **settings
) -> subprocess.Popen:
    """Types `python -m launch.train` for the quickstart. For `settings` see `start`."""
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    return start(
        *(*program, "--config", "experiments/quickstart.py", "--workdir", workdir),
        *(["--compile_cache", cache] if cache else []),
        *arguments,
        **settings,
    )
