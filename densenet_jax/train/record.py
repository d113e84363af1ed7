"""The run directory: the config of a run, its environment, its metrics and its result.

config.json  model.json  environment.json  metrics.jsonl  checkpoints/  result.json
"""

import fnmatch
import importlib.metadata
import itertools
import json
import logging
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from densenet_jax.data.workers import cores
from densenet_jax.errors import InputError, UnsupportedFile, counted
from densenet_jax.files import (
    check_writable,
    parse_object,
    read_object,
    read_regular,
    unfinished_name,
    write_durably,
)
from densenet_jax.train import process
from densenet_jax.train.config import base_config, flatten

PACKAGES = (
    *("densenet_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy"),
    *("grain", "simplejpeg", "opencv-python-headless", "pillow"),
)
# Orbax reads the path of a checkpoint as a pattern, and TensorStore reads a backslash as a slash.
_UNUSABLE = "*?[\\"
# Files that a new run directory may hold: those of editors, desktops, NFS and loggers.
_STRAYS = (".*", "*~", "#*#", "*.log", "*.out", "*.err", "*.tfevents.*")
_FILES = ("config.json", "model.json", "environment.json", "metrics.jsonl", "result.json")
MAX_METRICS_BYTES = 2**30  # The line of an epoch has about 230 bytes.
# The values of a result that commands read.
_RESULT_TYPES = {
    **dict.fromkeys(("model", "data"), str),
    **dict.fromkeys(("seed", "epochs", "params"), int),
    **dict.fromkeys(("test_error", "train_seconds", "images_per_second"), int | float),
    "input_wait_seconds": int | float,
}
MAX_RESULT = 2**53  # Largest whole number in a result.
# A run may resume with other values of these keys: they do not change its result.
_NOT_COMPARED = ("data.directory", "data.workers", "data.skip_broken", "data.max_pixels")


class RunDirectory:
    """One run directory, to read and to write. Only the first process writes.

    Files are synced to disk when a method returns, and a crash leaves each file whole.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser()

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def has_checkpoint(self) -> bool:
        return any(path.name.isdecimal() for path in self.checkpoints.glob("*"))

    def result(self) -> dict | None:
        """Returns the result of a finished run, or None. Raises InputError if it is damaged."""
        path = self.path / "result.json"
        if (found := read_object(path)) is None:
            return None
        early = {"input_wait_seconds": 0.0}  # Early results lack it.
        for key, value in (dict.fromkeys(_RESULT_TYPES) | early | found).items():
            is_of_type = isinstance(value, _RESULT_TYPES.get(key, object))
            if not is_of_type or not is_sound(key, value):
                raise InputError(
                    f"{path} is damaged ({key} is {value!r:.50}): restore or remove it"
                )
        return found

    def config(self) -> ConfigDict:
        """Returns the config of the run; keys that did not exist then have their defaults.

        Raises InputError if this is not a run directory.
        """
        values = read_object(self.path / "config.json")
        if values is None:
            raise InputError(f"{self.path} is not a run directory: it has no config.json")
        config = base_config()
        try:
            with config.unlocked():
                config.update(ConfigDict(with_tuples(values)))
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.path / 'config.json'} is damaged ({error}): restore or remove it"
            ) from error
        return config

    def check(self, config: ConfigDict) -> None:
        """Raises InputError if the directory belongs to another config, or to no run."""
        existing = next(
            path for path in (self.path, *self.path.parents) if path.exists() or path.is_symlink()
        )
        if not existing.exists():
            raise InputError(
                f"workdir {self.path} needs {existing}, a symbolic link to {existing.readlink()}, "
                "which does not exist: create that directory, or remove the link"
            )
        if not existing.is_dir():
            raise InputError(f"workdir {self.path} cannot be a directory: {existing} is a file")
        check_path(self.path)
        if not self._exists("config.json"):
            others = [path.name for path in self._entries() if not _is_stray(path.name)]
            if others:
                raise InputError(
                    f"workdir {self.path} holds other files ({', '.join(others[:3])}): name a new "
                    "or empty directory"
                )
            return
        old, new = flatten(self.config()), flatten(config)
        if found := [
            f"{key} ({old.get(key)!r} there, {new.get(key)!r} here)" for key in differing(old, new)
        ]:
            raise InputError(
                f"workdir {self.path} belongs to a run of another config: {', '.join(found)}; "
                "name another directory, or set those keys to their old values"
            )

    def check_classes(self, classes: Sequence[str] | None) -> None:
        """Raises InputError if the run was trained on other classes than `classes`."""
        trained = (read_object(self.path / "model.json") or {}).get("classes")
        if trained and classes and list(classes) != trained:
            raise InputError(
                f"the data have the classes {', '.join(classes[:5])} ({len(classes)}), but "
                f"{self.path} was trained on {', '.join(trained[:5])} ({len(trained)}): set "
                "data.directory to pictures of those classes"
            )

    def check_writable(self) -> None:
        """Raises InputError if nothing can be written here; leaves nothing behind."""
        existing = next(path for path in (self.path, *self.path.parents) if path.exists())
        check_writable(existing, "workdir")

    def model(self) -> dict:
        """Returns how to use the network. Raises InputError if this is not a run directory."""
        if (found := read_object(self.path / "model.json")) is None:
            raise InputError(f"{self.path} is not a run directory: it has no model.json")
        return found

    def start(self, config: ConfigDict, model: dict) -> None:
        """Writes config.json, model.json and, for this start of the run, environment.json.

        Removes the unfinished files of an earlier start that was killed.
        """
        if jax.process_index() == 0:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in _FILES:
                (self.path / unfinished_name(name)).unlink(missing_ok=True)
        self._write("config.json", json.loads(config.to_json_best_effort()))
        self._write("model.json", model)
        self._write("environment.json", environment())

    def metrics(self) -> list[dict]:
        """Returns the lines of metrics.jsonl, without an incomplete last line.

        Raises InputError if a line is damaged.
        """
        path, found = self.path / "metrics.jsonl", []
        for number, line in enumerate(self._metrics_bytes().split(b"\n")[:-1], 1):
            try:
                found.append(parse_object(line))
            except ValueError as error:
                raise InputError(
                    f"line {number} of {path} is damaged ({error}): restore or remove the file"
                ) from error
        return found

    def append_metrics(self, line: dict) -> None:
        """Adds a line to metrics.jsonl."""
        if jax.process_index() == 0:
            with (self.path / "metrics.jsonl").open("a") as file:
                file.write(_as_line(line))
                file.flush()
                os.fsync(file.fileno())

    def restore_metrics(self, lines: list[dict]) -> None:
        """Resets metrics.jsonl to the lines of a checkpoint.

        Drops later lines, because a resumed run writes them again. Reports a file that does not
        begin with `lines`, and keeps it under another name.
        """
        if jax.process_index() > 0:
            return
        path, expected = self.path / "metrics.jsonl", "".join(map(_as_line, lines)).encode()
        found = self._metrics_bytes()
        if found and not lines:
            logging.getLogger(__name__).warning(
                "%s has %s, but there is no checkpoint: training starts with the first epoch",
                *(path, counted(found.count(b"\n"), "line")),
            )
        if not found.startswith(expected):
            kept = free_name(path, "damaged")
            if path.exists():
                path.rename(kept)
            logging.getLogger(__name__).warning(
                "%s differs from the checkpoint: restored %s from the checkpoint%s",
                *(path, counted(len(lines), "line")),
                f", and kept the old file as {kept.name}" if found else "",
            )
        if found != expected or not path.exists():
            write_durably(path, expected)

    def _metrics_bytes(self) -> bytes:
        path = self.path / "metrics.jsonl"
        try:
            return read_regular(path, MAX_METRICS_BYTES)
        except FileNotFoundError:
            return b""
        except UnsupportedFile as error:
            raise InputError(f"{path} {error}") from error

    def finish(self, result: dict) -> None:
        self._write("result.json", result)

    def _write(self, name: str, value: dict) -> None:
        if jax.process_index() == 0:
            write_durably(self.path / name, json.dumps(value, indent=2) + "\n")

    def _exists(self, name: str) -> bool:
        return (self.path / name).exists()

    def _entries(self) -> list[Path]:
        return sorted(self.path.iterdir()) if self.path.exists() else []


def differing(first: dict, second: dict) -> list[str]:
    """Returns the keys whose values make two flat configs different runs."""
    keys = sorted((first.keys() | second.keys()) - set(_NOT_COMPARED))
    return [key for key in keys if first.get(key) != second.get(key)]


def is_sound(key: str, value: object) -> bool:
    """Returns whether `key` can have this `value` in a result or in a line of metrics."""
    if key == "test_error":
        return isinstance(value, int | float) and 0 <= value <= 100
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, int) or abs(value) <= MAX_RESULT


def check_path(workdir: Path) -> None:
    """Raises InputError for a path whose checkpoints could not be read back."""
    path = str(workdir.absolute())
    if unusable := sorted(c for c in set(path) if c in _UNUSABLE or "\ud800" <= c <= "\udfff"):
        raise InputError(
            f"workdir {path!r} contains {', '.join(map(repr, unusable))}: name a directory "
            "without such characters, because checkpoints in it could not be read back"
        )


def free_name(path: Path, ending: str) -> Path:
    """Returns the first of `path`.ENDING, `path`.ENDING2 and so on that does not exist."""
    numbers = itertools.chain([""], itertools.count(2))
    paths = (path.with_name(f"{path.name}.{ending}{number}") for number in numbers)
    return next(path for path in paths if not path.exists())


def _is_stray(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _STRAYS)


def _as_line(line: dict) -> str:
    return json.dumps(line) + "\n"


def best_epoch(lines: Iterable[dict]) -> dict | None:
    """Returns the line with the lowest validation error, the first if several are equal.

    Without validation images, the test error decides. Returns None if no line has an error.
    """
    evaluated = [line for line in lines if "test_error" in line]
    return min(
        evaluated, key=lambda line: line.get("validation_error", line["test_error"]), default=None
    )


def environment() -> dict:
    """Returns the versions, devices, git revision and settings of this process."""
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
        "process": process.settings(),
    }


def versions(*packages: str) -> dict[str, str | None]:
    """Returns the version of each package, None for those that are not installed."""
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
    """Returns `value`, read from JSON, with tuples instead of lists, as configs have them."""
    if isinstance(value, dict):
        return {key: with_tuples(item) for key, item in value.items()}
    return tuple(map(with_tuples, value)) if isinstance(value, list) else value
