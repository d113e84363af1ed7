"""Finds, reads and runs experiment files, and reports their mistakes."""

import contextlib
import dataclasses
import difflib
import inspect
import re
import textwrap
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, ModuleType

from ml_collections import ConfigDict, FrozenConfigDict

from densenet_jax.errors import InputError
from launch.paths import ROOT, expanded

EXPERIMENTS = ROOT / "experiments"
_REASON_CHARACTERS = 400  # Longer exception messages are shortened to this length.


def split(spec: str) -> tuple[Path, str]:
    """Splits `FILE.py[:ARG]` or `NAME[:ARG]` into the path and the argument, "" if there is none.

    A path that does not exist in the working directory is searched in the project. NAME is a path
    below experiments/ without .py. Both path and argument may contain colons: the path ends at the
    first `.py:` where a file exists, else at the first colon.
    """
    ends = [match.end() for match in re.finditer(r"\.py(?=:)", spec)]
    name, _, arg = spec.partition(":")
    pieces = [(spec, ""), *((spec[:end], spec[end + 1 :]) for end in ends), (name, arg)]
    for text, arg in pieces:
        for path in _places(text):
            if path.is_file() or (path.is_dir() and not arg):
                return path, arg
    missing, arg = pieces[min(1, len(ends))]
    return expanded(missing), arg


def _places(text: str) -> Iterator[Path]:
    """Yields the paths that `text` may stand for."""
    path = expanded(text)
    yield path
    if text and not path.is_absolute():
        yield EXPERIMENTS.parent / path
        yield EXPERIMENTS / f"{text}.py"


def names() -> list[str]:
    """Returns the names of all experiments, such as `cvpr2017/table2/densenet_k12_d40`."""
    files = (path for path in EXPERIMENTS.rglob("*.py") if "def get_config" in path.read_text())
    return sorted(str(path.relative_to(EXPERIMENTS).with_suffix("")) for path in files)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """An experiment file, read once.

    Each config comes from a separate run of the code. Otherwise flags for one config could change
    another config, because `get_config` may return the same object each time.
    """

    path: Path
    code: CodeType

    def module(self) -> ModuleType:
        """Runs the code. Raises InputError for a mistake in the code."""
        module = ModuleType("experiment")
        module.__file__ = str(self.path.absolute())
        with mistakes_in(self.path):
            exec(self.code, module.__dict__)
        if not callable(getattr(module, "get_config", None)):
            raise InputError(f"{self.path} is not an experiment: it defines no get_config()")
        return module

    def config(self, arg: str) -> ConfigDict:
        """Returns the locked config. Raises InputError for any mistake in the file."""
        path, get_config = self.path, self.module().get_config
        if arg and not inspect.signature(get_config).parameters:
            raise InputError(f"{path} takes no argument, but {arg!r} is set: remove :{arg}")
        with mistakes_in(path):
            config = get_config(*([arg] if arg else []))
        if not isinstance(config, ConfigDict) or isinstance(config, FrozenConfigDict):
            raise InputError(
                f"get_config() in {path} returns {described(config)}, not a ConfigDict: begin with "
                "config = base_config() and end with return config"
            )
        return config.lock()


def read(path: Path) -> Experiment:
    """Reads an experiment file. Raises InputError if the file is missing or cannot be compiled."""
    if not path.is_file():
        raise InputError(f"there is no config file {path}: {_hint(path.stem)}")
    if path.suffix != ".py":
        raise InputError(f"{path} is not a Python file: its name must end in .py")
    with mistakes_in(path):
        return Experiment(path, compile(path.read_bytes(), str(path.absolute()), "exec"))


def _hint(stem: str) -> str:
    """Returns the remedy for a missing file, with the experiment of the nearest name."""
    found = names()
    near = [name for name in found if name.rpartition("/")[2] == stem]
    near = near or difflib.get_close_matches(stem, found, n=1, cutoff=0.4)
    if not near:
        return "configs of the papers are in experiments/"
    return f"did you mean {' or '.join(map(repr, near))}, a config of experiments/?"


def described(value: object) -> str:
    """Describes a value of a wrong type for an error message."""
    return "nothing" if value is None else f"an object of type {type(value).__name__}"


@contextlib.contextmanager
def mistakes_in(path: Path) -> Iterator[None]:
    """Reports an exception in the file at `path` as an InputError with its line and reason."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        where, reason = str(path), str(error.args[0] if len(error.args) == 1 else error)
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path.absolute())]
        if isinstance(error, SyntaxError):  # In the file or in a module that the file imports.
            where, reason, lines = error.filename or where, error.msg, [error.lineno]
        if lines and lines[-1]:
            where += f", line {lines[-1]}"
        # ml_collections lists the whole config after an unknown key.
        reason = re.sub(r' Other fields present: ".*}"(\\n|\n)*', " ", reason, flags=re.DOTALL)
        reason = textwrap.shorten(reason, _REASON_CHARACTERS, placeholder=" ...")
        raise InputError(f"{where}: {type(error).__name__}: {reason}") from error
