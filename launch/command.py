"""Shared parts of commands: configs from files and flags, and one-line errors."""

import argparse
import contextlib
import errno
import io
import logging
import os
import re
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict, FieldReference, config_flags

from densenet_jax.data.places import cache_directory
from densenet_jax.errors import (
    FAILED_STATUS,
    INTERRUPTED_STATUS,
    PREEMPTED_STATUS,
    InputError,
    Interrupted,
    Preempted,
    RunError,
    printable,
    suggest,
)
from densenet_jax.train import process
from densenet_jax.train.config import check_none, flatten, refusal
from densenet_jax.train.keys import PATHS
from densenet_jax.train.mesh import all_devices
from densenet_jax.train.preemption import stop_signals
from densenet_jax.train.record import RunDirectory
from densenet_jax.train.reporter import LossyOutput
from launch import experiment, peers
from launch.config_help import config_help
from launch.paths import expanded


def run(main: Callable[[list[str] | None], None], argv: list[str] | None = None) -> int:
    """Runs a command; returns its exit status, see `_statuses`."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # Set by `launch`, while it is imported.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # Closed: the next opened file would take its number.
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal lacks, or a file name that is not UTF-8, must not end the
        # command after its work.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for handler in logging.root.handlers[:]:
        if type(handler) is logging.StreamHandler:  # Importing absl adds one.
            logging.root.removeHandler(handler)
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler])
    process.configure_errors()
    with contextlib.redirect_stdout(LossyOutput(sys.stdout)) as output:
        status = _run(main, argv)
        output.flush()
    if output.error and output.error.errno != errno.EPIPE:  # `| head` closes the pipe.
        status = status or INTERRUPTED_STATUS
    if status:
        process.failed.set()
    if status not in (0, PREEMPTED_STATUS) and jax.distributed.is_initialized():
        # An orderly end would wait for the other processes, which may be waiting for this one.
        peers.end(status)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


class PrintableFormatter(logging.Formatter):
    """A formatter that escapes control characters in messages, which may quote files."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)


def _run(main: Callable[[list[str] | None], None], argv: list[str] | None) -> int:
    try:
        return _finished(main, argv)
    except InputError as error:
        return _fail(error, 2)
    except Interrupted as error:
        # A lost process causes later failures, such as that of a checkpoint.
        return _fail(*(peers.lost() or (error, INTERRUPTED_STATUS)))
    except RunError as error:
        return _fail(error, FAILED_STATUS)
    except KeyboardInterrupt:
        # Another Ctrl-C must not show a stack trace while Python ends.
        signal.signal(signal.SIGINT, lambda *_: os._exit(128 + signal.SIGINT))
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else error
        return _fail(reason, INTERRUPTED_STATUS)
    except Exception as error:
        if isinstance(error, RuntimeError | AssertionError):  # As JAX raises without a device.
            try:
                all_devices()
            except InputError as reason:
                return _fail(reason, 2)
        if not jax.distributed.is_initialized():
            raise
        if lost := peers.lost():
            return _fail(*lost)
        peers.reserve_last_message()
        traceback.print_exc()
        return 1


def _finished(main: Callable[[list[str] | None], None], argv: list[str] | None) -> int:
    try:
        main(argv)
        status = 0
    except Preempted as error:
        print(error, file=sys.stderr)
        status = PREEMPTED_STATUS
    peers.finish()
    return status


def ignore_stop_signals() -> None:
    """Ignores SIGTERM and SIGHUP in a process that is about to end.

    Everything is saved then. A signal, such as that of a host that is taken away a few seconds
    after another, would only replace the exit status.
    """
    for number in stop_signals() - {signal.SIGINT}:
        signal.signal(number, signal.SIG_IGN)


def _fail(error: Exception | str, status: int) -> int:
    peers.reserve_last_message()
    print(f"error: {printable(error)}", file=sys.stderr)
    return status


def _statuses(resumes: bool) -> str:
    """Returns the part of `--help` that describes exit statuses."""
    resume = "; the same command resumes" if resumes else ""
    meanings = {
        0: "done",
        2: "a mistake in the command or in a file; nothing was started",
        INTERRUPTED_STATUS: f"interrupted by the machine, such as by a full disk{resume}",
        FAILED_STATUS: "failed, and would fail again",
        PREEMPTED_STATUS: f"stopped by SIGTERM, SIGHUP or Ctrl-C, and saved{resume}",
        130: "ended at once by Ctrl-C",
    }
    if not resumes:
        del meanings[PREEMPTED_STATUS]
    return "\n".join(["exit status:", *(f"  {n:<4} {text}" for n, text in meanings.items())])


def parser(
    doc: str, with_config: bool = False, compiles: bool = True, resumes: bool = False
) -> argparse.ArgumentParser:
    """Returns an argument parser whose help is `doc`, with the keys of a config if it takes one.

    Args:
      compiles: adds the flag for `use_compile_cache`.
      resumes: whether the same command resumes what was interrupted.
    """
    started = sys.modules["__main__"].__spec__
    described = argparse.ArgumentParser(
        prog=f"python -m {started.name.removesuffix('.__main__')}" if started else None,
        description=doc,
        epilog="\n\n".join([_statuses(resumes), *([config_help()] if with_config else [])]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if compiles:
        ours = cache_directory()
        default = str(ours / "xla").replace("%", "%%") if ours else "off"
        described.add_argument(
            "--compile_cache",
            metavar="DIR",
            help="directory of compiled programs, for the next start; 'off' stores none (default: "
            f"JAX_COMPILATION_CACHE_DIR, or else {default})",
        )
    if with_config:
        described.add_argument(
            "--config",
            required=True,
            metavar="FILE.py[:ARG]",
            help="an experiment, also by its name below experiments/, such as quickstart; or the "
            "directory of a run to repeat. --config.KEY=VALUE sets any key, and VALUE None unsets "
            "an optional key",
        )
    return described


def use_compile_cache(directory: str | None) -> None:
    """Stores compiled programs in `directory`; warns if that is impossible.

    Args:
      directory: "off" stores none; None: JAX_COMPILATION_CACHE_DIR, or else the project's default.
    """
    if not os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        # Small programs too, because some run before the first step.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    ours = cache_directory()
    default = str(ours / "xla") if ours else None
    directory = directory or jax.config.values["jax_compilation_cache_dir"] or default
    problem = None
    if directory is None:
        problem = "there is no home directory: name a directory with --compile_cache"
    elif directory != "off" and "://" not in directory:  # JAX itself writes to gs://BUCKET.
        directory = str(expanded(directory))
        try:
            Path(directory).mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=directory).close()
        except OSError as error:
            problem = f"{directory}: {error.strerror}"
    if problem:
        logging.warning("compiled programs are not stored: %s", problem)
    kept = None if problem or directory == "off" else directory
    jax.config.update("jax_compilation_cache_dir", kept)


def load_config(spec: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """Reads the config of an experiment.

    Args:
      spec: path of a file that defines `get_config(arg=None)`, and optionally `:ARG`; or a run
        directory, for the config of that run.
      overrides: flags as typed, `["--config.model.growth_rate=24", ...]`.

    Raises:
      InputError: the file is missing or has a mistake, ARG or a key is unknown, or a value has the
        wrong type.
    """
    path, arg = experiment.split(spec)
    config = RunDirectory(path).config() if path.is_dir() else experiment.read(path).config(arg)
    return override(config, overrides)


def override(config: ConfigDict, overrides: Sequence[str]) -> ConfigDict:
    """Returns `config` with the values of `["--config.KEY=VALUE", ...]` and with `~` expanded.

    The VALUE None unsets an optional key.
    """
    typed, is_none = _without_none(overrides, list(flatten(config)))
    argv = ["command", *typed]
    values = flags.FlagValues()
    overridden = _part(config, is_none)
    try:
        config_flags.DEFINE_config_dict("config", overridden, flag_values=values, sys_argv=argv)
        rest = values(argv)[1:]
    except flags.IllegalFlagValueError as error:
        # absl keeps the key and the value only in its message: "flag --config.KEY=VALUE: REASON".
        flag = str(error).removesuffix(f": {error.__context__}")
        key, value = flag.removeprefix("flag --config.").split("=", 1)
        raise refusal(key, value) from error
    except (AttributeError, KeyError, TypeError, ValueError, flags.Error) as error:
        raise InputError(" ".join(str(error.args[0] if error.args else error).split())) from error
    if rest:
        raise InputError(f"unknown arguments: {' '.join(rest)}")
    unset = dict.fromkeys(key for key in is_none if is_none[key])
    config.update_from_flattened_dict(flatten(overridden) | unset)
    found = flatten(config)
    check_none(found)
    homes = {key: found[key] for key in PATHS if str(found.get(key)).startswith("~")}
    config.update_from_flattened_dict({key: str(expanded(homes[key])) for key in homes})
    return config


class _Part(ConfigDict):
    """Some keys of a config, without the text that config_flags would make of them.

    config_flags converts its config to YAML for a help text, which takes longer than reading flags.
    """

    def __str__(self) -> str:
        return "config"


def _part(config: ConfigDict, keys: Iterable[str]) -> _Part:
    """Returns a config with only `keys`, and their types."""
    part = _Part()
    for key in keys:
        *groups, name = key.split(".")
        source, target = config, part
        for group in groups:
            if group not in target:
                target[group] = ConfigDict()
            source, target = source[group], target[group]
        target[name] = FieldReference(source[name], source.get_type(name))
    return part


def _without_none(overrides: Sequence[str], keys: list[str]) -> tuple[list[str], dict[str, bool]]:
    """Returns `overrides` without the values None, and for each key whether its last value is None.

    config_flags would read None as a string, or refuse it. Raises InputError for an unknown key.
    """
    joined: list[str] = []
    typed: list[str] = []
    is_none: dict[str, bool] = {}
    for argument in overrides:
        if argument == "None" and joined and re.fullmatch(r"--?config\.[^=]+", joined[-1]):
            joined[-1] += "=None"
        else:
            joined.append(argument)
    for argument in joined:
        if match := re.match(r"--?(no)?config\.([^=]*)", argument):
            key = match[2]
            if key not in keys:
                raise InputError(f"the config has no key {key!r}: {suggest(key, keys)}")
            is_none[key] = argument[match.end() :] == "=None"
        if not match or not is_none[key]:
            typed.append(argument)
    return typed, is_none
