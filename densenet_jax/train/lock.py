"""Locks a run directory, so that only one run at a time writes to it.

The lock is `flock` on the file `.lock`. The kernel releases it when the process ends, in any way.
On NFS, Linux turns it into a lock of the server, which also holds between hosts. If a host dies,
the server releases the lock after its lease (NFSv4: about 90 s). Where a file system has no locks,
or none between hosts, the newest run wins: each run writes a token to the file, and `RunLock.check`
ends a run that no longer finds its token.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import secrets
import socket
import sys
import time
from pathlib import Path
from typing import TextIO

import jax
import numpy as np
from jax.experimental import multihost_utils

from densenet_jax.errors import Interrupted
from densenet_jax.files import check_regular, open_regular, sync

NAME = ".lock"
# A status command may hold the lock for a moment, and a killed run frees it with a delay.
_WAIT_SECONDS = 2.0
_POLL_SECONDS = 0.1
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)

_log = logging.getLogger(__name__)


class RunLock:
    """The lock of a run directory, which is created if missing. A context manager.

    Only the first process of a run holds the lock; the other processes learn whether it was free.
    Removes the directory at the end if it is still empty.

    Entering raises Interrupted if another run holds the lock, and InputError if the file `.lock` is
    not a regular file.
    """

    def __init__(self, directory: Path):
        self._directory, self._path = directory, directory / NAME
        self._token = secrets.token_hex(8)
        self._file: TextIO | None = None

    def __enter__(self) -> "RunLock":
        is_free = self._acquire() if jax.process_index() == 0 else True
        if jax.process_count() > 1:
            is_free = bool(multihost_utils.broadcast_one_to_all(np.array(is_free)))
        if not is_free:
            raise Interrupted(
                f"{self._directory} is in use by another run ({describe_holder(self._directory)}): "
                "wait for it, stop it, or name another directory"
            )
        return self

    def __exit__(self, *exception) -> None:
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            if [path.name for path in self._directory.iterdir()] == [NAME]:
                self._path.unlink()
                self._directory.rmdir()
        self._file.close()  # Releases the lock.
        self._file = None

    def check(self) -> None:
        """Raises Interrupted if another run has taken the directory despite the lock."""
        if self._file is None:
            return
        try:
            token = json.loads(self._path.read_text())["token"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            token = None
        if token != self._token:
            raise Interrupted(
                f"another run has taken {self._directory} ({describe_holder(self._directory)}): "
                "this run stops and writes nothing more to it"
            )

    def _acquire(self) -> bool:
        """Takes the lock. Returns False if another process holds it."""
        deadline = time.monotonic() + _WAIT_SECONDS
        while True:
            try:
                if self._try():
                    return True
            except FileNotFoundError:
                pass  # Another process removed the empty directory meanwhile.
            if time.monotonic() > deadline:
                return False
            time.sleep(_POLL_SECONDS)

    def _try(self) -> bool:
        if not self._directory.exists():
            self._directory.mkdir(parents=True, exist_ok=True)
            sync(self._directory.parent)
        with contextlib.suppress(FileNotFoundError):
            check_regular(self._path)
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(self._path.open("a+"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    if isinstance(error, BlockingIOError):
                        return False
                    raise
                _log.warning(
                    "%s cannot be locked (%s): do not start a second run in this directory",
                    *(self._path, error.strerror),
                )
            # The last holder may have just removed this file.
            if not os.path.samestat(os.fstat(file.fileno()), self._path.stat()):
                return False
            holder = {
                "host": socket.gethostname(),
                "process": os.getpid(),
                "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
                "started": time.strftime("%Y-%m-%d %H:%M:%S"),
                "token": self._token,
            }
            file.truncate(0)
            file.write(json.dumps(holder) + "\n")
            file.flush()
            self._file = file
            stack.pop_all()
        return True


def is_locked(path: Path) -> bool:
    """Returns whether a process holds the lock file at `path`, as far as this host can see."""
    try:
        with open_regular(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def describe_holder(directory: Path) -> str:
    """Returns who holds `directory`, for a message."""
    try:
        found = json.loads((directory / NAME).read_text())
        return f"process {found['process']} on {found['host']} since {found['started']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown: its .lock file is unreadable"
