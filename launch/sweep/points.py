"""The points of a sweep: which runs there are to be, and what has become of them.

A sweep's folder holds a run directory for each point, and in `logs` for each point NAME.log, what
it printed; NAME.exit, the exit status of its last try; NAME.lock, which is locked while it runs;
NAME.submitted, if a scheduler has it.
"""

import collections
import dataclasses
import fcntl
import inspect
import re
from pathlib import Path

from ml_collections import ConfigDict

from densenet_jax.errors import PREEMPTED_STATUS, InputError
from densenet_jax.train.config import check_config
from densenet_jax.train.record import RunDirectory
from launch import command
from launch.sweep import hyper

# Killed from outside, or told to stop: to be started again. Negative ones are Python's signals.
_INTERRUPTIONS = (PREEMPTED_STATUS, 128 + 9, 128 + 15)
_LOG_END = 2000  # Bytes of a log to look at.


@dataclasses.dataclass(frozen=True)
class Point:
    """A run to be.

    Attributes:
      name: of its folder; tells what differs between the points.
      spec: the experiment, FILE.py[:ARG].
      overrides: ["--config.model.growth_rate=12", ...].
      config: of both.
      folder: of the sweep.
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
        """What follows `python` to run it."""
        return ["-m", "launch.train", "--config", self.spec, "--workdir", str(self.workdir),
                *self.overrides]  # fmt: skip

    def state(self) -> str:
        """finished, running, submitted, failed, interrupted or waiting."""
        if RunDirectory(self.workdir).result() is not None:
            return "finished"
        if self._is_locked():
            return "running"
        if self.file("submitted").exists():
            return "submitted"
        status = self.exit_status()
        if status is not None:
            is_interrupted = status < 0 or status in _INTERRUPTIONS
            return "interrupted" if is_interrupted else "failed"
        return "interrupted" if self.workdir.exists() else "waiting"

    def note_submitted(self) -> None:
        self.file("submitted").parent.mkdir(parents=True, exist_ok=True)
        self.file("submitted").touch()

    def note_started(self) -> None:
        for kind in ("exit", "submitted"):
            self.file(kind).unlink(missing_ok=True)

    def exit_status(self) -> int | None:
        """Of its last try; None if it is not known."""
        path = self.file("exit")
        text = path.read_text().strip() if path.exists() else ""
        return int(text) if re.fullmatch(r"-?\d+", text) else None

    def last_lines(self, count: int) -> list[str]:
        """Of its log."""
        path = self.file("log")
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LOG_END))
            return file.read().decode(errors="replace").splitlines()[-count:]

    def _is_locked(self) -> bool:
        try:
            with self.file("lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False


def load_points(spec: str, folder: Path, overrides: list[str] = ()) -> list[Point]:
    """The points of the sweep file FILE.py[:ARG], which defines `get_config` and `get_hyper`.

    Args:
      overrides: for every point, before its own.

    Raises:
      InputError: no such file, an unknown key, an impossible point, two points of one name.
    """
    path, _, arg = spec.partition(":")
    module = command.load_module(path)
    if not hasattr(module, "get_hyper"):
        raise InputError(f"{path} is no sweep: it defines no get_hyper(hyper).")
    takes_arg = len(inspect.signature(module.get_hyper).parameters) > 1
    settings = module.get_hyper(hyper, *([arg] if arg and takes_arg else []))
    if not settings:
        raise InputError(f"{path} gives no points.")
    names = _names(settings)
    return [
        _point(name, spec, [*overrides, *_flags(setting)], folder)
        for name, setting in zip(names, settings, strict=True)
    ]


def _point(name: str, spec: str, overrides: list[str], folder: Path) -> Point:
    try:
        config = command.load_config(spec, overrides)
        check_config(config)
    except InputError as error:
        raise InputError(f"point {name}: {error}") from error
    return Point(name, spec, overrides, config, folder)


def _flags(setting: dict) -> list[str]:
    for key in setting:
        if not key.startswith("config."):
            raise InputError(f"the sweep sets {key!r}: keys of a config begin with 'config.'.")
    return [f"--{key}={value}" for key, value in setting.items()]


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
        "_".join(f"{short[key]}={_in_a_name(s[key])}" for key in differing if key in s)
        for s in settings
    ]
    [(most, count)] = collections.Counter(names).most_common(1)
    if count > 1:
        raise InputError(f"{count} points of the sweep are called {most}: make them differ.")
    return names


def _in_a_name(value: object) -> str:
    """Of characters that neither a file system nor a shell minds."""
    text = str(value)
    return re.sub(r"[^A-Za-z0-9.+-]+", "-", text).strip("-") if text else "none"


def check_folder(points: list[Point]) -> None:
    """Raises InputError if the folder holds runs of other configs, or belongs to something else."""
    for point in points:
        RunDirectory(point.workdir).check(point.config)


def describe(point: Point) -> dict:
    """For `--status`: name, state, epoch, epochs, error and images a second, as far as known."""
    run = RunDirectory(point.workdir)
    lines, result = run.metrics(), run.result()
    errors = [line["test_error"] for line in lines if "test_error" in line]
    rates = re.findall(r"([\d,]+) images/s", "\n".join(point.last_lines(50)))
    return {
        "name": point.name,
        "state": point.state(),
        "epoch": lines[-1]["epoch"] if lines else 0,
        "epochs": point.config.epochs,
        "test_error": result["test_error"] if result else (errors[-1] if errors else None),
        "images_per_second": int(rates[-1].replace(",", "")) if rates else None,
    }
