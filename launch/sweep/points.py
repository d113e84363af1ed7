"""The points of a sweep: which runs there are to be, and what has become of them.

A sweep's folder holds a run directory for each point, and in `logs` for each point NAME.log, what
it printed; NAME.exit, the exit status of its last try; NAME.lock, which is locked while it runs;
NAME.submitted, if a scheduler has it.
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
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from densenet_jax.errors import INTERRUPTED_STATUS, PREEMPTED_STATUS, InputError
from densenet_jax.files import open_regular
from densenet_jax.train.config import PATHS, check_config, flatten
from densenet_jax.train.lock import NAME as LOCK
from densenet_jax.train.lock import is_locked
from densenet_jax.train.record import RunDirectory, check_path
from launch import command, experiment, run_files
from launch.sweep import hyper

ROOT = Path(__file__).parents[2]
# The same command resumes a run that ended with one of these. Signals are 128 + their number, or
# negative as Python reports them.
_INTERRUPTIONS = (INTERRUPTED_STATUS, PREEMPTED_STATUS, 128 + 9, 128 + 15)
_LOG_END = 2000  # Bytes of a log to look at.
_EXIT_BYTES = 16  # Of an exit status.
# Kubernetes takes names of 63 characters, and adds -worker-0-31-abcde to those of its pods.
_LABEL_CHARACTERS = 45
_DIGEST_CHARACTERS = 8
# File systems take names of 255 bytes; the longest here is NAME.submitted.
_NAME_BYTES = 255 - len(".submitted")


class Look(NamedTuple):
    """What has become of a point.

    Attributes:
      state: finished, running, submitted, failed, interrupted or waiting; mismatched if the
        directory belongs to a run of another config; broken if a file cannot be used.
      epoch: the last one in its metrics, or 0.
      test_error: in percent; the last known one.
      images_per_second: as last logged.
      problem: a sentence, if the state is mismatched or broken.
    """

    state: str
    epoch: int = 0
    test_error: float | None = None
    images_per_second: int | None = None
    problem: str = ""


@dataclasses.dataclass(frozen=True)
class Point:
    """A run to be.

    Attributes:
      name: of its run directory; names what differs between the points.
      spec: the experiment, FILE.py[:ARG], with an absolute path.
      overrides: ["--config.model.growth_rate=12", ...], with absolute paths.
      config: the config that `spec` and `overrides` give.
      folder: the directory of the sweep.
    """

    name: str
    spec: str
    overrides: list[str]
    config: ConfigDict
    folder: Path

    @property
    def workdir(self) -> Path:
        return self.folder / self.name

    def file(self, kind: str) -> Path:
        """`kind`: "log", "exit", "lock" or "submitted"."""
        return self.folder / "logs" / f"{self.name}.{kind}"

    @property
    def arguments(self) -> list[str]:
        """The arguments of `python` for this machine, or for one with the same files."""
        return self._arguments(self.spec, self.overrides)

    @property
    def arguments_in_a_copy(self) -> list[str]:
        """`arguments` where the working directory is a copy of this project.

        Files of the project are named relative to the project; other paths stay absolute.
        """
        inside = re.compile(rf"^(--config\.[^=]+=)?{re.escape(str(ROOT))}/")
        spec, *overrides = (inside.sub(r"\1", text) for text in (self.spec, *self.overrides))
        return self._arguments(spec, overrides)

    def _arguments(self, spec: str, overrides: list[str]) -> list[str]:
        return ["-m", "launch.train", "--config", spec, "--workdir", str(self.workdir), *overrides]

    @property
    def label(self) -> str:
        """A name for clusters and clouds that no other point has."""
        return label(f"{self.folder.name}-{self.name}", self.workdir)

    def state(self) -> str:
        """Returns the state that `look` finds."""
        return self.look().state

    def look(self) -> Look:
        """Reads each file of the point once. A damaged file is a problem, not an exception."""
        try:
            result = RunDirectory(self.workdir).result()
            state, problem = self._state(result)
            newest = run_files.metrics_backwards(self.workdir)
            last = next(newest, None)
            if result:
                error = result["test_error"]
            else:
                lines = itertools.chain([last] if last else [], newest)
                error = next((line["test_error"] for line in lines if "test_error" in line), None)
            rates = re.findall(r"(\d[\d,]*) images/s", "\n".join(self.last_lines(50)))
        except InputError as error:
            return Look("broken", problem=str(error))
        except OSError as error:
            return Look("broken", problem=f"cannot read {error.filename}: {error.strerror}")
        rate = int(rates[-1].replace(",", "")) if rates else None
        return Look(state, last["epoch"] if last else 0, error, rate, problem)

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
        self.file("submitted").parent.mkdir(parents=True, exist_ok=True)
        self.file("submitted").touch()

    def note_started(self) -> None:
        for kind in ("exit", "submitted"):
            self.file(kind).unlink(missing_ok=True)

    def exit_status(self) -> int | None:
        """Of its last try; None if it is not known."""
        path = self.file("exit")
        if not path.exists():
            return None
        with open_regular(path) as file:
            text = file.read(_EXIT_BYTES).strip()
        return int(text) if re.fullmatch(rb"-?\d{1,3}", text) else None

    def last_lines(self, count: int) -> list[str]:
        """Of its log."""
        path = self.file("log")
        if not path.exists():
            return []
        with open_regular(path) as file:
            file.seek(max(0, path.stat().st_size - _LOG_END))
            return file.read().decode(errors="replace").splitlines()[-count:]


def load_points(spec: str, folder: Path, overrides: list[str] = ()) -> list[Point]:
    """Reads the points of the sweep file FILE.py[:ARG], with `get_config` and `get_hyper`.

    Relative paths become absolute, because points are started from other directories.

    Args:
      overrides: for every point, before its own.

    Raises:
      InputError: no such file, a mistake in it, an unknown key, an impossible point, two points of
        one name.
    """
    for name, text in (("--sweep", spec), ("--workdir", str(folder))):
        check_characters(name, text)
    check_path(Path(folder))
    path, arg = experiment.split(spec)
    file = experiment.read(path)
    settings = _settings(file, arg)
    spec = f"{_absolute(path)}:{arg}" if arg else _absolute(path)
    folder = Path(_absolute(folder))
    points = []
    for name, setting in zip(_names(settings), settings, strict=True):
        flags = [*overrides, *(f"--{key}={value}" for key, value in setting.items())]
        try:
            config, flags = _resolved(file.config(arg), flags)
        except InputError as error:
            raise InputError(f"point {name}: {error}") from error
        points.append(Point(name, spec, flags, config, folder))
    return points


def _settings(file: experiment.Experiment, arg: str) -> list[dict]:
    """Returns what `get_hyper` gives, in plain Python values."""
    path = file.path
    get_hyper = getattr(file.module(), "get_hyper", None)
    if not callable(get_hyper):
        raise InputError(f"{path} is no sweep: it defines no get_hyper(hyper)")
    takes_arg = len(inspect.signature(get_hyper).parameters) > 1
    with experiment.mistakes_in(path):
        found = get_hyper(hyper, *([arg] if arg and takes_arg else []))
        settings = list(found) if isinstance(found, Iterable) else [found]  # May be a generator.
    if found is None:
        raise InputError(f"get_hyper() in {path} returns nothing: end it with return POINTS")
    for setting in settings:
        if not isinstance(setting, dict):
            raise InputError(
                f"get_hyper() in {path} gives {experiment.described(setting)} as a point, not a "
                "dict: return a list of dicts, such as hyper.sweep(KEY, VALUES)"
            )
        for key in setting:
            if not str(key).startswith("config."):
                raise InputError(f"the sweep sets {key!r}: keys of a config begin with 'config.'")
    if not settings:
        raise InputError(f"{path} gives no points: get_hyper() returns an empty list")
    return [{key: _plain(key, value) for key, value in setting.items()} for setting in settings]


def _plain(key: str, value: object):
    """Returns `value` in types that a flag can carry, which NumPy's and JAX's are not."""
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
    """Returns the config of a point and its overrides, with absolute paths."""
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
    """Raises InputError for control characters, such as a newline, which end a line of a script."""
    if any(unicodedata.category(character) == "Cc" for character in text):
        raise InputError(f"{name} {text!r} contains control characters: remove them")


def check_unicode(command: str) -> None:
    """Raises InputError for a file name that is no Unicode, which YAML cannot hold."""
    try:
        command.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{command!r} has a file name that is not UTF-8: rename the file"
        ) from error


def label(text: str, path: Path) -> str:
    """Returns `text` as a name that Kubernetes and other clouds accept, with a hash of `path`."""
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:_DIGEST_CHARACTERS]
    words = re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")
    if not words[:1].isalpha():
        words = f"sweep-{words}"
    return f"{words[: _LABEL_CHARACTERS - _DIGEST_CHARACTERS - 1].rstrip('-')}-{digest}"


def _absolute(path: str | Path) -> str:
    return os.path.normpath(Path(path).absolute())


def _names(settings: list[dict]) -> list[str]:
    """`growth_rate=12_seed=0`: the keys that differ, by their last part if that is enough."""
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
        raise InputError(f"{count} points of the sweep are called {most}: make them differ")
    return [_shortened(name) for name in names]


def _shortened(name: str) -> str:
    """Returns a name that is too long for a file with its end replaced by its hash."""
    if len(name) <= _NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{name[: _NAME_BYTES - len(digest) - 1]}-{digest}"


def _in_a_name(value: object) -> str:
    """Returns `value` in ASCII characters that need no quotes in a shell."""
    text = str(value)
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", text).strip("-") if text else "none"
