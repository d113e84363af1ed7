"""Reads the points of a sweep, and the state of the run of each point.

The directory of a sweep holds a run directory for each point. Its subdirectory `logs` holds files
for each point:
  * NAME.log: the output of the point
  * NAME.exit: the exit status of the last attempt
  * NAME.lock: locked while the point runs
  * NAME.submitted: exists while a scheduler has the point
"""

import collections
import dataclasses
import hashlib
import inspect
import itertools
import operator
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from densenet_jax.errors import INTERRUPTED_STATUS, PREEMPTED_STATUS, InputError
from densenet_jax.files import open_regular
from densenet_jax.train.config import check_config, flatten
from densenet_jax.train.keys import PATHS
from densenet_jax.train.lock import NAME as LOCK
from densenet_jax.train.lock import is_locked
from densenet_jax.train.record import RunDirectory, check_path
from launch import command, experiment, run_files
from launch.paths import ROOT
from launch.sweep import hyper

# The same command resumes a run that ended with one of these statuses. A signal is 128 + its
# number, or negative as Python reports it.
_INTERRUPTIONS = (INTERRUPTED_STATUS, PREEMPTED_STATUS, 128 + 9, 128 + 15)
_LOG_BYTES = 2000  # Bytes that are read from the end of a log.
_EXIT_BYTES = 16  # Bytes that are read from NAME.exit.
# Kubernetes allows 63 characters and adds -worker-0-31-abcde to the names of pods.
_LABEL_CHARACTERS = 45
_DIGEST_CHARACTERS = 8
# File systems allow 255 bytes in a file name; the longest here is NAME.submitted.
_NAME_BYTES = 255 - len(".submitted")


class Snapshot(NamedTuple):
    """The state of a point at one moment, as its files show it.

    Attributes:
      state: finished, running, submitted, failed, interrupted or waiting; mismatched if the
        directory belongs to a run of another config; broken if a file cannot be used.
      epoch: the last epoch of the metrics, or 0.
      test_error: the last known test error in percent.
      images_per_second: the last logged rate.
      problem: a sentence if the state is mismatched or broken, else "".
    """

    state: str
    epoch: int = 0
    test_error: float | None = None
    images_per_second: int | None = None
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
      name: name of the run directory, made of the settings that differ between points.
      spec: the experiment, FILE.py[:ARG], with an absolute path.
      overrides: ["--config.model.growth_rate=12", ...], with absolute paths.
      config: the config that `spec` and `overrides` define.
      directory: the directory of the sweep.
    """

    name: str
    spec: str
    overrides: list[str]
    config: ConfigDict
    directory: Path

    @property
    def workdir(self) -> Path:
        return self.directory / self.name

    def file(self, kind: str) -> Path:
        """Returns the path of the file of a kind: "log", "exit", "lock" or "submitted"."""
        return self.directory / "logs" / f"{self.name}.{kind}"

    @property
    def arguments(self) -> list[str]:
        """Arguments of `python` on this machine, or on a machine with the same files."""
        return self._arguments(self.spec, self.overrides)

    @property
    def arguments_in_a_copy(self) -> list[str]:
        """Arguments of `python` in a working directory that is a copy of this project.

        Paths inside the project are relative to the copy; other paths stay absolute.
        """
        inside = re.compile(rf"^(--config\.[^=]+=)?{re.escape(str(ROOT))}/")
        spec, *overrides = (inside.sub(r"\1", text) for text in (self.spec, *self.overrides))
        return self._arguments(spec, overrides)

    def _arguments(self, spec: str, overrides: list[str]) -> list[str]:
        return ["-m", "launch.train", "--config", spec, "--workdir", str(self.workdir), *overrides]

    @property
    def label(self) -> str:
        """A unique name of the point for clusters and clouds."""
        return label(f"{self.directory.name}-{self.name}", self.workdir)

    def state(self) -> str:
        """Returns the state that `snapshot` finds."""
        return self.snapshot().state

    def snapshot(self) -> Snapshot:
        """Reads each file of the point once. Reports a damaged file as the problem."""
        try:
            result = RunDirectory(self.workdir).result()
            state, problem = self._state(result)
            lines = run_files.metrics_backwards(self.workdir)
            last = next(lines, None)
            if result:
                test_error = result["test_error"]
            else:
                lines = itertools.chain([last] if last else [], lines)
                errors = (line["test_error"] for line in lines if "test_error" in line)
                test_error = next(errors, None)
            rates = re.findall(r"(\d[\d,]*) images/s", "\n".join(self.last_lines(50)))
        except InputError as error:
            return Snapshot("broken", problem=str(error))
        except OSError as error:
            return Snapshot("broken", problem=f"cannot read {error.filename}: {error.strerror}")
        rate = int(rates[-1].replace(",", "")) if rates else None
        return Snapshot(state, last["epoch"] if last else 0, test_error, rate, problem)

    def _state(self, result: dict | None) -> tuple[str, str]:
        """Returns the state and the problem. Raises InputError for a broken point."""
        if result is None and (is_locked(self.file("lock")) or is_locked(self.workdir / LOCK)):
            return "running", ""
        found = run_files.flat_config(self.workdir)
        if found != flatten(self.config):
            try:
                RunDirectory(self.workdir).check(self.config)
            except InputError as error:
                if found is None:
                    raise
                return "mismatched", str(error)
        if result is not None:
            return "finished", ""
        if self.file("submitted").exists():
            return "submitted", ""
        status = self.exit_status()
        if status is not None:
            is_interrupted = status < 0 or status in _INTERRUPTIONS
            return "interrupted" if is_interrupted else "failed", ""
        return "interrupted" if self.workdir.exists() else "waiting", ""

    def note_submitted(self) -> None:
        """Records that a scheduler has the point."""
        self.file("submitted").parent.mkdir(parents=True, exist_ok=True)
        self.file("submitted").touch()

    def note_started(self) -> None:
        """Removes records of earlier attempts."""
        for kind in ("exit", "submitted"):
            self.file(kind).unlink(missing_ok=True)

    def exit_status(self) -> int | None:
        """Returns the exit status of the last attempt; None if it is unknown."""
        path = self.file("exit")
        if not path.exists():
            return None
        with open_regular(path) as file:
            text = file.read(_EXIT_BYTES).strip()
        return int(text) if re.fullmatch(rb"-?\d{1,3}", text) else None

    def last_lines(self, count: int) -> list[str]:
        """Returns up to `count` lines from the end of the log."""
        path = self.file("log")
        if not path.exists():
            return []
        with open_regular(path) as file:
            file.seek(max(0, path.stat().st_size - _LOG_BYTES))
            return file.read().decode(errors="replace").splitlines()[-count:]


def load_points(spec: str, directory: Path, overrides: Sequence[str] = ()) -> list[Point]:
    """Reads the points of the sweep file FILE.py[:ARG], with `get_config` and `get_hyper`.

    Without `get_hyper`, the file has one point, "default".

    Relative paths become absolute, because points start in other directories.

    Args:
      directory: the directory of the sweep.
      overrides: flags for every point, which settings of the point override.

    Raises:
      InputError: no such file, a mistake in the file, an unknown key, an invalid config, or two
        points with the same name.
    """
    for name, text in (("--sweep", spec), ("--workdir", str(directory))):
        check_characters(name, text)
    check_path(directory)
    path, arg = experiment.split(spec)
    file = experiment.read(path)
    settings = _settings(file, arg)
    spec = f"{_absolute(path)}:{arg}" if arg else _absolute(path)
    directory = Path(_absolute(directory))
    points = []
    for name, setting in zip(_names(settings), settings, strict=True):
        flags = [*overrides, *(f"--{key}={value}" for key, value in setting.items())]
        try:
            config, flags = _resolved(file.config(arg), flags)
        except InputError as error:
            raise InputError(f"point {name}: {error}") from error
        points.append(Point(name, spec, flags, config, directory))
    return points


def _settings(file: experiment.Experiment, arg: str) -> list[dict]:
    """Returns the settings of each point from `get_hyper`, as plain Python values.

    Without `get_hyper`, there is one point without settings.
    """
    path = file.path
    get_hyper = getattr(file.module(), "get_hyper", None)
    if get_hyper is None:
        return [{}]  # An experiment is a sweep of one point.
    if not callable(get_hyper):
        raise InputError(
            f"get_hyper in {path} is {experiment.described(get_hyper)}, not a function: define "
            "get_hyper(hyper), or remove it"
        )
    takes_arg = len(inspect.signature(get_hyper).parameters) > 1
    with experiment.mistakes_in(path):
        found = get_hyper(hyper, *([arg] if arg and takes_arg else []))
        settings = list(found) if isinstance(found, Iterable) else [found]  # May be a generator.
    if found is None:
        raise InputError(f"get_hyper() in {path} returns nothing: end it with return POINTS")
    for setting in settings:
        if not isinstance(setting, dict):
            raise InputError(
                f"get_hyper() in {path} returns {experiment.described(setting)} as a point, not a "
                "dict: return a list of dicts, such as hyper.sweep(KEY, VALUES)"
            )
        for key in setting:
            if not str(key).startswith("config."):
                raise InputError(f"the sweep sets {key!r}: keys of a config begin with 'config.'")
    if not settings:
        raise InputError(f"{path} defines no points: get_hyper() returns an empty list")
    return [{key: _plain(key, value) for key, value in setting.items()} for setting in settings]


def _plain(key: str, value: object):
    """Converts values of NumPy and JAX to types that a flag can hold."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, tuple | list):
        return tuple(_plain(key, item) for item in value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is not None and type(value) not in (bool, int, float, str):
        raise InputError(
            f"the sweep sets {key} to {experiment.described(value)}: use None, a bool, a number, a "
            "string or a tuple"
        )
    return value


def _resolved(config: ConfigDict, overrides: list[str]) -> tuple[ConfigDict, list[str]]:
    """Returns the config and the overrides of a point, with absolute paths."""
    for text in overrides:
        check_characters("a setting", text)
    config = command.override(config, overrides)
    check_config(config)
    typed = {key: operator.attrgetter(key)(config) for key in PATHS}
    paths = {
        key: _absolute(path) for key, path in typed.items() if path and not path.startswith("hf:")
    }
    config.update_from_flattened_dict(paths)
    flags = [f"--config.{key}={path}" for key, path in paths.items()]
    return config, [*overrides, *(flag for flag in flags if flag not in overrides)]


def check_characters(name: str, text: str) -> None:
    """Raises InputError for control characters, because a newline would end a line of a script."""
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise InputError(f"{name} {text!r} contains control characters: remove them")


def check_unicode(command: str) -> None:
    """Raises InputError for a file name that is not UTF-8, because YAML cannot hold it."""
    try:
        command.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{command!r} has a file name that is not UTF-8: rename the file"
        ) from error


def label(text: str, path: Path) -> str:
    """Returns a name that Kubernetes and clouds accept, from `text` and a hash of `path`."""
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:_DIGEST_CHARACTERS]
    words = re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")
    if not words[:1].isalpha():
        words = f"sweep-{words}"
    return f"{words[: _LABEL_CHARACTERS - _DIGEST_CHARACTERS - 1].rstrip('-')}-{digest}"


def _absolute(path: str | Path) -> str:
    return os.path.normpath(Path(path).absolute())


def _names(settings: list[dict]) -> list[str]:
    """Returns a name for each point, such as `growth_rate=12_seed=0`.

    A name holds the keys that differ, by their last part if that part is unique.
    """
    keys = list(dict.fromkeys(key for setting in settings for key in setting))
    differing = [key for key in keys if len({repr(s.get(key)) for s in settings}) > 1] or keys
    ends = collections.Counter(key.rpartition(".")[2] for key in differing)
    short = {key: key.rpartition(".")[2] for key in differing}
    short = {
        key: end if ends[end] == 1 else key.removeprefix("config.") for key, end in short.items()
    }
    names = [
        "_".join(f"{short[key]}={_in_a_name(s[key])}" for key in differing if key in s) or "default"
        for s in settings
    ]
    [(most, count)] = collections.Counter(names).most_common(1)
    if count > 1:
        raise InputError(
            f"{count} points of the sweep are named {most}: remove or change duplicates"
        )
    return [_shortened(name) for name in names]


def _shortened(name: str) -> str:
    """Replaces the end of a name that is too long for a file name by a hash."""
    if len(name) <= _NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{name[: _NAME_BYTES - len(digest) - 1]}-{digest}"


def _in_a_name(value: object) -> str:
    """Writes `value` in ASCII characters that need no quotes in a shell."""
    text = str(value)
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", text).strip("-") if text else "none"
