"""The run directory: what was asked for, where it ran, what happened.

config.json  model.json  environment.json  metrics.jsonl  checkpoints/  result.json
"""

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from densenet_jax.data.stream import cores
from densenet_jax.errors import InputError
from densenet_jax.train.config import base_config, flatten

PACKAGES = (
    *("densenet_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"),
    *("grain", "simplejpeg", "opencv-python-headless", "pillow"),
)
# Where the data lie and who reads them is not what the run is: it may go on where it is otherwise.
_NOT_COMPARED = ("data.directory", "data.workers", "data.skip_broken", "data.max_pixels")


class RunDirectory:
    """Reads and writes one run directory. Only the first process writes."""

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def has_checkpoint(self) -> bool:
        return any(path.name.isdecimal() for path in self.checkpoints.glob("*"))

    def checkpoint_step(self, which: str) -> int | None:
        """The step of the "best" checkpoint; None for the "last". InputError if there is none."""
        if not self.has_checkpoint():
            raise InputError(f"{self.path} holds no checkpoint: train it first.")
        best = best_epoch(self.metrics()) if which == "best" else None
        return best and best["step"]

    def result(self) -> dict | None:
        """The result of a finished run, or None."""
        return self._read("result.json")

    def config(self) -> ConfigDict:
        """The config of the run; keys that are younger than it have their defaults.

        Raises InputError if this is no run directory.
        """
        values = self._read("config.json")
        if values is None:
            raise InputError(f"{self.path} is no run directory: it has no config.json.")
        config = base_config()
        try:
            with config.unlocked():
                config.update(ConfigDict(with_tuples(values)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.path / 'config.json'} is damaged ({error}): restore or remove it."
            ) from error
        return config

    def check(self, config: ConfigDict) -> None:
        """Raises InputError if this is the directory of another config, or of something else."""
        existing = next(path for path in (self.path, *self.path.parents) if path.exists())
        if not existing.is_dir():
            raise InputError(f"workdir {self.path} cannot be a folder: {existing} is a file.")
        if not self.path.exists() or not any(self.path.iterdir()):
            return
        if not (self.path / "config.json").exists():
            raise InputError(f"workdir {self.path} holds other files: name a new or empty folder.")
        old, new = flatten(self.config()), flatten(config)
        differing = [
            f"{key} ({old.get(key)!r} there, {new.get(key)!r} here)"
            for key in sorted(old.keys() | new.keys())
            if old.get(key) != new.get(key) and key not in _NOT_COMPARED
        ]
        if differing:
            raise InputError(
                f"workdir {self.path} belongs to a run of another config: {', '.join(differing)}; "
                "name another folder, or set those keys as they were."
            )

    def check_classes(self, classes: Sequence[str] | None) -> None:
        """Raises InputError if the run was trained on other classes than these of its data."""
        trained = (self._read("model.json") or {}).get("classes")
        if trained and classes and list(classes) != trained:
            raise InputError(
                f"the data have the classes {', '.join(classes[:5])} ({len(classes)}), but "
                f"{self.path} was trained on {', '.join(trained[:5])} ({len(trained)}): set "
                "data.directory to pictures of those classes"
            )

    def check_writable(self) -> None:
        """Raises InputError if nothing can be written here; leaves nothing behind."""
        existing = next(path for path in (self.path, *self.path.parents) if path.exists())
        try:
            tempfile.TemporaryFile(dir=existing).close()
        except OSError as error:
            raise InputError(f"cannot write to workdir {existing}: {error.strerror}.") from error

    def model(self) -> dict:
        """What is needed to use the network. Raises InputError if this is no run directory."""
        if (found := self._read("model.json")) is None:
            raise InputError(f"{self.path} is no run directory: it has no model.json.")
        return found

    def start(self, config: ConfigDict, model: dict) -> None:
        """Writes config.json and model.json, and describes this start in environment.json."""
        self._write("config.json", json.loads(config.to_json_best_effort()))
        self._write("model.json", model)
        self._write("environment.json", environment())

    def metrics(self) -> list[dict]:
        """The lines of metrics.jsonl; not one that was cut short when a run was stopped."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def append_metrics(self, line: dict) -> None:
        """Adds a line to metrics.jsonl, on disk when this returns."""
        if jax.process_index() == 0:
            with (self.path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
                file.flush()
                os.fsync(file.fileno())

    def keep_metrics_until(self, step: int) -> None:
        """Drops lines later than the checkpoint a run goes on from: they will come again."""
        lines = [json.dumps(line) + "\n" for line in self.metrics() if line["step"] <= step]
        self._replace("metrics.jsonl", "".join(lines))

    def finish(self, result: dict) -> None:
        self._write("result.json", result)

    def _read(self, name: str):
        path = self.path / name
        try:
            return json.loads(path.read_text()) if path.exists() else None
        except ValueError as error:
            raise InputError(f"{path} is damaged ({error}): restore or remove it.") from error

    def _write(self, name: str, value: dict) -> None:
        self._replace(name, json.dumps(value, indent=2) + "\n")

    def _replace(self, name: str, text: str) -> None:
        """Writes a file that is there whole or not at all."""
        if jax.process_index() == 0:
            self.path.mkdir(parents=True, exist_ok=True)
            temporary = self.path / f".{name}.new"
            temporary.write_text(text)
            temporary.replace(self.path / name)


def best_epoch(lines: Iterable[dict]) -> dict | None:
    """The line of the best epoch of those that were evaluated, the first if several are.

    It has the lowest validation error; or test error, if nothing is held out for validation.
    """
    evaluated = [line for line in lines if "test_error" in line]
    return min(
        evaluated, key=lambda line: line.get("validation_error", line["test_error"]), default=None
    )


def environment() -> dict:
    """Returns the versions, the devices and the git revision of this process."""
    devices = jax.devices()
    return {
        "command": [*(Path(word).name for word in sys.argv[:1]), *sys.argv[1:]],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions(*PACKAGES),
        "backend": jax.default_backend(),
        "devices": [device.device_kind for device in devices],
        "processes": jax.process_count(),
        "cpu_count": os.cpu_count(),
        "usable_cores": cores(),
        "git_revision": _git_revision(),
    }


def versions(*packages: str) -> dict[str, str | None]:
    """Returns the version of each package, None where no metadata tell it.

    A package that was not installed but only put on the path has no metadata.
    """
    return {name: _version(name) for name in packages}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_revision() -> str | None:
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=40",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def with_tuples(value):
    """JSON has no tuples; configs have no lists."""
    if isinstance(value, dict):
        return {key: with_tuples(item) for key, item in value.items()}
    return tuple(map(with_tuples, value)) if isinstance(value, list) else value
