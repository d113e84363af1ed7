"""What commands share: configs from files and flags, and errors in one sentence."""

import argparse
import ctypes
import functools
import importlib.util
import inspect
import logging
import os
import platform
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import jax
from absl import flags
from ml_collections import ConfigDict, config_flags

from densenet_jax.errors import PREEMPTED_STATUS, InputError, Preempted, RunError, suggest
from densenet_jax.models.catalog import FAMILIES
from densenet_jax.models.settings import NetworkConfig
from densenet_jax.train.config import base_config, flatten
from densenet_jax.train.record import RunDirectory

CACHE = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "densenet_jax" / "xla"


def run(main: Callable[[list[str] | None], None], argv: list[str] | None = None) -> int:
    """Runs a command; returns its exit status.

    2 for a user's mistake, 3 for a failed run, 75 for one that was told to stop and saved itself.
    """
    logging.basicConfig(format="%(message)s")
    # What Orbax logs at length it raises as well.
    for library in ("absl", "asyncio"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    failed = threading.Event()
    if sys.unraisablehook is sys.__unraisablehook__:  # Not a test runner's.
        sys.unraisablehook = functools.partial(_shorter, sys.__unraisablehook__, failed)
        threading.excepthook = functools.partial(_shorter, threading.__excepthook__, failed)
    status = _run(main, argv)
    if status:
        failed.set()
    if status not in (0, PREEMPTED_STATUS) and jax.distributed.is_initialized():
        # An orderly end would wait for the other processes, which may be waiting for this one.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _run(main: Callable[[list[str] | None], None], argv: list[str] | None) -> int:
    try:
        main(argv)
    except InputError as error:
        return _fail(error, 2)
    except RunError as error:
        return _fail(error, 3)
    except Preempted as error:
        print(error, file=sys.stderr)
        return PREEMPTED_STATUS
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else error, 3)
    except Exception:
        if not jax.distributed.is_initialized():
            raise
        traceback.print_exc()
        return 1
    return 0


def _shorter(hook: Callable, failed: threading.Event, args) -> None:
    """`hook`, but errors of the system in a line: of a full disk threads tell as well.

    Not once the command has `failed`, which has told: TensorBoard's writer tries again at the end.
    """
    if not isinstance(args.exc_value, OSError):
        hook(args)
    elif args.exc_value.strerror and not failed.is_set():
        print(f"in the background: {args.exc_value.strerror}", file=sys.stderr)


def _fail(error: Exception | str, status: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status


def parser(doc: str, with_config: bool = False, compiles: bool = True) -> argparse.ArgumentParser:
    """An argument parser that says `doc`, and the keys of a config if it takes one.

    `compiles` adds the flag for `use_compile_cache`.
    """
    started = sys.modules["__main__"].__spec__
    described = argparse.ArgumentParser(
        prog=started and f"python -m {started.name.removesuffix('.__main__')}",
        description=doc,
        epilog=_config_help() if with_config else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    if compiles:
        described.add_argument(
            "--compile_cache",
            metavar="DIR",
            default=str(CACHE),
            help="where compiled programs are kept for the next start; 'off' keeps none "
            "(%(default)s)",
        )
    if with_config:
        described.add_argument(
            "--config",
            required=True,
            metavar="FILE.py[:ARG]",
            help="an experiment, or the folder of a run to do again; any key can be set with "
            "--config.KEY=VALUE",
        )
    return described


def add_processes(described: argparse.ArgumentParser) -> None:
    """Adds the flags of runs on several hosts, for `join_processes`."""
    group = described.add_argument_group(
        "several hosts",
        "Under Slurm's srun and on TPU pods processes find one another. Elsewhere start the same "
        "command on each host, with these:",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="of the first process")
    group.add_argument("--processes", type=int, metavar="N", help="how many there are")
    group.add_argument("--process", type=int, metavar="I", help="which this one is, from 0")


def join_processes(args: argparse.Namespace) -> None:
    """Joins the other processes of this run, if there are any; before JAX looks for devices."""
    given = [value is not None for value in (args.coordinator, args.processes, args.process)]
    if any(given) and not all(given):
        raise InputError("--coordinator, --processes and --process go together: give all or none.")
    # Of collectives on CPU; other backends have their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if all(given):
        jax.distributed.initialize(args.coordinator, args.processes, args.process)
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        jax.distributed.initialize(local_device_ids=gpus_of_slurm_task(os.environ))
    elif _is_tpu_host():
        jax.distributed.initialize()


def gpus_of_slurm_task(environment: Mapping[str, str]) -> list[int] | None:
    """All GPUs of the node, if a task has the node alone; None leaves it to JAX: one for each."""
    tasks, nodes = (environment.get(f"SLURM_STEP_NUM_{what}", "") for what in ("TASKS", "NODES"))
    gpus = environment.get("SLURM_GPUS_ON_NODE")
    return list(range(int(gpus))) if gpus and tasks == nodes else None


def _is_tpu_host() -> bool:
    """Whether this host has TPUs, alone or together with others: JAX asks its metadata which."""
    wanted = os.environ.get("JAX_PLATFORMS", "tpu").startswith("tpu")
    devices = [*Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("[0-9]*")]
    return wanted and bool(devices) and importlib.util.find_spec("libtpu") is not None


def use_compile_cache(directory: str) -> None:
    """Goes without one, saying so, if `directory` cannot be written to."""
    if directory == "off":
        return
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        logging.warning("compiled programs are not kept: %s: %s.", directory, error.strerror)
        return
    jax.config.update("jax_compilation_cache_dir", directory)
    # Small programs too: there are some before the first step.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def keep_memory() -> None:
    """Keeps freed memory in the process, on CPU with the GNU C library; before JAX starts.

    XLA's CPU client allocates the temporary memory of each step anew, and the C library hands it
    back to the system, which clears it page by page the next time: 15 to 20 % of a step.
    """
    # On the main thread, as the heaps of others stay small.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if jax.default_backend() == "cpu" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(-4, 0)  # M_MMAP_MAX: large blocks come from the heap as well,
        libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: which keeps up to 2 GB that are free.


def load_config(spec: str, overrides: list[str] = ()) -> ConfigDict:
    """The config of an experiment.

    Args:
      spec: path of a file that defines `get_config(arg=None)`, and optionally `:ARG`; or of a run
        directory, whose config it is then.
      overrides: as typed, `["--config.model.growth_rate=24", ...]`.

    Raises:
      InputError: no such file, a wrong ARG, an unknown key or a value of the wrong type.
    """
    if Path(spec).is_dir():
        return override(RunDirectory(spec).config(), overrides)
    path, _, arg = spec.partition(":")
    module = load_module(path)
    if arg and not inspect.signature(module.get_config).parameters:
        raise InputError(f"{path} takes no argument, but was given {arg!r}.")
    config = module.get_config(*([arg] if arg else [])).lock()
    return override(config, overrides)


def load_module(path: str) -> ModuleType:
    """The file of an experiment. Raises InputError if it is none."""
    if not Path(path).is_file():
        raise InputError(f"there is no config file {path}: the papers' are in experiments/.")
    module_spec = importlib.util.spec_from_file_location("experiment", path)
    if module_spec is None:
        raise InputError(f"{path} is not a Python file.")
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise InputError(f"{path} is no experiment: it defines no get_config().")
    return module


def override(config: ConfigDict, overrides: list[str]) -> ConfigDict:
    """`config` with the values of `["--config.KEY=VALUE", ...]`."""
    keys = list(flatten(config))
    for argument in overrides:
        key = argument.removeprefix("--config.").split("=")[0]
        if argument.startswith("--config.") and key not in keys:
            raise InputError(f"the config has no key {key!r}: {suggest(key, keys)}")
    argv = ["command", *overrides]
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        rest = values(argv)[1:]
    except (AttributeError, KeyError, TypeError, ValueError, flags.Error) as error:
        raise InputError(" ".join(str(error.args[0] if error.args else error).split())) from error
    if rest:
        raise InputError(f"unknown arguments: {' '.join(rest)}.")
    return values.config


def _config_help() -> str:
    parts = ["config keys (defaults of the base config):", _after(base_config, "\n\n")]
    for family in (NetworkConfig, *FAMILIES):
        parts += ["", f"model.FIELD of {family.__name__}:", _after(family, "Attributes:\n")]
    return "\n".join(parts)


def _after(described: object, mark: str) -> str:
    return inspect.getdoc(described).split(mark, 1)[1]
