"""What commands share: configs from files and flags, and errors in one sentence."""

import argparse
import contextlib
import ctypes
import errno
import functools
import inspect
import io
import logging
import os
import platform
import re
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

import jax
from absl import flags
from ml_collections import ConfigDict, FieldReference, config_flags

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
from densenet_jax.models.catalog import FAMILIES
from densenet_jax.models.network import NetworkConfig
from densenet_jax.train import compiler
from densenet_jax.train.config import PATHS, base_config, check_none, flatten
from densenet_jax.train.mesh import all_devices
from densenet_jax.train.progress import LossyOutput
from densenet_jax.train.record import RunDirectory
from launch import experiment, peers
from launch.cache import cache_directory
from launch.paths import expanded

STATUSES = f"""exit status:
  0    done
  2    a mistake in the command or in a file; nothing was started
  {INTERRUPTED_STATUS}    the machine cut the run off; the same command resumes it
  {FAILED_STATUS}    the run failed, and would fail again
  {PREEMPTED_STATUS}   stopped by SIGTERM, SIGHUP or Ctrl-C, and saved; the same command resumes it
  130  ended at once by Ctrl-C"""


def run(main: Callable[[list[str] | None], None], argv: list[str] | None = None) -> int:
    """Runs a command; returns its exit status, one of `STATUSES`."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # Of `launch`, while it was imported.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # Closed: the next file to be opened would take its place.
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # A character that the terminal lacks, or a file name that is no text, must not end the
        # command after its work.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    for handler in logging.root.handlers[:]:
        if type(handler) is logging.StreamHandler:  # As absl leaves one when it is imported.
            logging.root.removeHandler(handler)
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler])
    # What Orbax logs at length it raises as well.
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    failed = threading.Event()
    if sys.unraisablehook is sys.__unraisablehook__:  # Not a test runner's.
        sys.unraisablehook = functools.partial(_shorter, sys.__unraisablehook__, failed)
        threading.excepthook = functools.partial(_shorter, threading.__excepthook__, failed)
    with contextlib.redirect_stdout(LossyOutput(sys.stdout)) as output:
        status = _run(main, argv)
        output.flush()
    if output.error and output.error.errno != errno.EPIPE:  # `| head` wants no more.
        status = status or INTERRUPTED_STATUS
    if status:
        failed.set()
    if status not in (0, PREEMPTED_STATUS) and jax.distributed.is_initialized():
        # An orderly end would wait for the other processes, which may be waiting for this one.
        peers.end(status)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


class PrintableFormatter(logging.Formatter):
    """Escapes what would control the terminal in messages, which may quote files."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)


def _run(main: Callable[[list[str] | None], None], argv: list[str] | None) -> int:
    try:
        return _finished(main, argv)
    except InputError as error:
        return _fail(error, 2)
    except Interrupted as error:
        # A lost process is the cause of what fails after it, such as a checkpoint.
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


def _shorter(hook: Callable, failed: threading.Event, args) -> None:
    """Calls `hook`, but reports an OSError of a thread, such as a full disk, in one line.

    Reports nothing once the command has `failed`, which has reported it: TensorBoard's writer tries
    again at the end. Nor does it report arrays that Orbax no longer waits for, because Orbax raises
    the first error of those that it reads or writes side by side.
    """
    if isinstance(args.exc_value, RuntimeError) and "loop is closed" in str(args.exc_value):
        return
    if isinstance(args.exc_value, KeyboardInterrupt):
        # A callback dropped it, such as JAX's for the garbage collector: again, once it is over.
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
    elif not isinstance(args.exc_value, OSError):
        hook(args)
    elif args.exc_value.strerror and not failed.is_set():
        print(f"in the background: {args.exc_value.strerror}", file=sys.stderr)


def _fail(error: Exception | str, status: int) -> int:
    peers.reserve_last_message()
    print(f"error: {printable(error)}", file=sys.stderr)
    return status


def parser(doc: str, with_config: bool = False, compiles: bool = True) -> argparse.ArgumentParser:
    """An argument parser that says `doc`, and the keys of a config if it takes one.

    `compiles` adds the flag for `use_compile_cache`.
    """
    started = sys.modules["__main__"].__spec__
    described = argparse.ArgumentParser(
        prog=started and f"python -m {started.name.removesuffix('.__main__')}",
        description=doc,
        epilog="\n\n".join([STATUSES, *([_config_help()] if with_config else [])]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if compiles:
        ours = cache_directory()
        default = str(ours / "xla").replace("%", "%%") if ours else "off"
        described.add_argument(
            "--compile_cache",
            metavar="DIR",
            help="where compiled programs are kept for the next start; 'off' keeps none (the "
            f"variable JAX_COMPILATION_CACHE_DIR, or else {default})",
        )
    if with_config:
        described.add_argument(
            "--config",
            required=True,
            metavar="FILE.py[:ARG]",
            help="an experiment, or the directory of a run to repeat; --config.KEY=VALUE sets any "
            "key, and the VALUE None unsets an optional one",
        )
    return described


def use_compile_cache(directory: str | None) -> None:
    """Keeps compiled programs in `directory`; warns if they cannot be kept there.

    Args:
      directory: "off" for none; None for JAX_COMPILATION_CACHE_DIR, or else this project's own.
    """
    if not os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        # Small programs too: there are some before the first step.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    ours = cache_directory()
    directory = directory or jax.config.jax_compilation_cache_dir or (ours and str(ours / "xla"))
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
        logging.warning("compiled programs are not kept: %s", problem)
    kept = None if problem or directory == "off" else directory
    jax.config.update("jax_compilation_cache_dir", kept)


def prepare_devices() -> None:
    """Sets what makes steps faster and has to be set early; then starts JAX's backend.

    On NVIDIA GPUs: kernels are loaded at the start, so that CUDA graphs can hold convolutions, see
    `densenet_jax.train.compiler`.

    On CPU with the GNU C library: freed memory stays in the process. XLA's CPU client allocates the
    temporary memory of each step anew, and the C library hands it back to the system, which clears
    it page by page the next time: 15 to 20 % of a step.

    Raises InputError if JAX cannot use any device.
    """
    os.environ.setdefault(*compiler.EAGER_LOADING)
    # On the main thread, as the heaps of others stay small.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if all_devices()[0].platform == "cpu" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap as well,
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: which keeps up to 2 GB that are free.


def load_config(spec: str, overrides: list[str] = ()) -> ConfigDict:
    """Reads the config of an experiment.

    Args:
      spec: path of a file that defines `get_config(arg=None)`, and optionally `:ARG`; or a run
        directory, for the config of that run.
      overrides: as typed, `["--config.model.growth_rate=24", ...]`.

    Raises:
      InputError: no such file, a mistake in it, a wrong ARG, an unknown key or a value of the wrong
        type.
    """
    path, arg = experiment.split(spec)
    config = RunDirectory(path).config() if path.is_dir() else experiment.read(path).config(arg)
    return override(config, overrides)


def override(config: ConfigDict, overrides: list[str]) -> ConfigDict:
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
    """Some keys of a config.

    config_flags converts the config that it is given to YAML, for a help text. That takes longer
    than to read the flags.
    """

    def __str__(self) -> str:
        return "config"


def _part(config: ConfigDict, keys: Iterable[str]) -> _Part:
    """Returns a config of `keys` alone, with their types."""
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


def _without_none(overrides: list[str], keys: list[str]) -> tuple[list[str], dict[str, bool]]:
    """Returns `overrides` without those of None, and their keys: whether the last value is None.

    config_flags would read None as a string, or refuse it. Raises InputError for an unknown key.
    """
    joined, typed, is_none = [], [], {}
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


def _config_help() -> str:
    parts = ["config keys (defaults of the base config):", _after(base_config, "\n\n")]
    for family in (NetworkConfig, *FAMILIES):
        parts += ["", f"model.FIELD of {family.__name__}:", _after(family, "Attributes:\n")]
    return "\n".join(parts)


def _after(described: object, mark: str) -> str:
    return inspect.getdoc(described).split(mark, 1)[1]
