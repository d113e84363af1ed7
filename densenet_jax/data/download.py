"""Downloads the published files of image sets, and checks their sizes and SHA-256 digests.

This module uses urllib, because pooch cannot resume a partial file.
"""

import contextlib
import errno
import fcntl
import hashlib
import http.client
import logging
import os
import pathlib
import queue
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from densenet_jax.data import registry
from densenet_jax.data.places import UNFINISHED
from densenet_jax.errors import InputError, Interrupted, RunError, counted, printable
from densenet_jax.files import check_regular, open_regular, sync

CONTACT_SECONDS = 5.0  # Longest wait until one of the servers answers, all servers together.
STALL_SECONDS = 20.0  # Longest wait for the next bytes of an answer.
RETRY_SECONDS = (1.0, 2.0, 4.0)  # Wait before each retry; one number more makes one retry more.
_PROGRESS_BYTES = 2**20  # After this many new bytes the retries are counted from zero again.
_CHUNK_BYTES = 2**18
_TRANSIENT_STATUSES = {408, 429, 500, 502, 503, 504}


class Event(NamedTuple):
    """The state of a download.

    Attributes:
      file: the file in progress.
      done: number of bytes that have arrived, with those of earlier commands.
      is_stored: whether the whole file has been checked and has its name.
    """

    file: registry.PublishedFile
    done: int
    is_stored: bool = False


class _Failure(Exception):
    """The failure of a server. The message completes a sentence that begins with its name.

    Attributes:
      transient: whether the server may give the file later.
      retry: whether another attempt may succeed at once.
    """

    def __init__(self, message: str, transient: bool = True, retry: bool = True):
        super().__init__(message)
        self.transient, self.retry = transient, retry


def fetch(name: str, directory: pathlib.Path, url: str | None = None) -> Iterator[Event]:
    """Downloads the files of a set to `directory`, and yields the state from time to time.

    A file that exists is checked and kept. An unfinished file, `NAME.part`, is resumed. A file gets
    its name only after its size and digest are found right.

    Args:
      name: name of the set.
      url: see `registry.addresses`.

    Raises:
      InputError: unknown name, an existing file with another content, or a directory that cannot be
        written to.
      Interrupted: a failure of the machine or of the network; the same call resumes.
      RunError: no server has the published file.
    """
    registry.check_name(name)
    jobs = [(file, registry.addresses(name, file, url)) for file in registry.published_files(name)]
    existing = {file.name for file, _ in jobs if _exists(directory / file.name, file)}
    for file, urls in jobs:
        if file.name not in existing:
            yield from _Download(file, urls, directory / file.name).run()
        yield Event(file, file.size, is_stored=True)


def _exists(path: pathlib.Path, file: registry.PublishedFile) -> bool:
    """Returns whether the file is there. Raises InputError if it has another content."""
    try:
        with open_regular(path) as content:
            if _is_right(content, file):
                return True
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InputError(
            f"cannot read {path} ({error.strerror}): choose another directory with --out"
        ) from error
    raise InputError(
        f"{path} exists, but it is not the published file (its size or SHA-256 digest differs): "
        "remove it and run the same command again"
    )


def _is_right(content: BinaryIO, file: registry.PublishedFile) -> bool:
    content.seek(0)
    if os.fstat(content.fileno()).st_size != file.size:
        return False
    # The stubs of BinaryIO lack `readinto`.
    return hashlib.file_digest(content, "sha256").hexdigest() == file.sha256  # type: ignore


class _Download:
    """The download of one file, from the first server that has it."""

    def __init__(self, file: registry.PublishedFile, urls: list[str], path: pathlib.Path):
        self._file, self._urls, self._path = file, urls, path
        self._part_path = path.with_name(path.name + UNFINISHED)
        self._contact_seconds = CONTACT_SECONDS / len(urls)
        self._done = 0  # Bytes in the unfinished file.
        self._reached = False  # Whether a server has answered.

    def run(self) -> Iterator[Event]:
        with self._writing(), _locked(self._part_path) as part:
            failures = []
            for url in self._urls:
                self._done = os.fstat(part.fileno()).st_size
                try:
                    yield from self._from_server(url, part)
                    break
                except _Failure as failure:
                    failures.append((urllib.parse.urlsplit(url).hostname, failure))
            else:
                if not self._done:
                    self._part_path.unlink(missing_ok=True)
                raise self._failed(failures)
            os.fsync(part.fileno())
            self._part_path.replace(self._path)
            sync(self._path.parent)

    def _failed(self, failures: list[tuple[str | None, _Failure]]) -> Exception:
        reasons = " and ".join(f"{host} {printable(failure)}" for host, failure in failures)
        transient = any(failure.transient for _, failure in failures)
        again = "run the same command again later, which resumes, or " if transient else ""
        return (Interrupted if transient else RunError)(
            f"cannot download {self._file.name}, because {reasons}: {again}name another server "
            f"with --url, or copy the file to {self._path.parent}"
        )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns errors of the file system into sentences."""
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                left = self._file.size - self._done
                raise Interrupted(
                    f"cannot write {self._part_path} ({error.strerror}): free "
                    f"{counted(left, 'byte')} and run the same command again, which resumes"
                ) from error
            raise InputError(
                f"cannot write {error.filename or self._part_path} ({error.strerror}): choose "
                "another directory with --out"
            ) from error

    def _from_server(self, url: str, part: BinaryIO) -> Iterator[Event]:
        """Downloads from one server, with retries. Raises _Failure."""
        retries = list(RETRY_SECONDS)
        counted_from = self._done
        resumed = self._done > 0
        while True:
            try:
                yield from self._attempt(url, part)
                if _is_right(part, self._file):
                    return
                self._restart(part)
                failure = _Failure("sent a file with another SHA-256 digest", False, False)
                if resumed:  # The first part may have come from another server or command.
                    failure = _Failure("resumed a file that has another SHA-256 digest")
                    resumed = False
            except _Failure as caught:
                failure = caught
            if self._done - counted_from >= _PROGRESS_BYTES:
                retries, counted_from = list(RETRY_SECONDS), self._done
            if not failure.retry or not retries:
                raise failure
            seconds = retries.pop(0)
            host = urllib.parse.urlsplit(url).hostname
            logging.getLogger("densenet_jax").warning(
                "%s %s: retrying %s in %g s", host, failure, self._file.name, seconds
            )
            time.sleep(seconds)

    def _restart(self, part: BinaryIO) -> None:
        part.truncate(0)
        part.seek(0)
        self._done = 0

    def _attempt(self, url: str, part: BinaryIO) -> Iterator[Event]:
        """Asks for the missing bytes once, and appends what comes. Raises _Failure."""
        if self._done > self._file.size:
            self._restart(part)
        if self._done == self._file.size:
            return
        with self._answer(url) as response:
            self._check_answer(response, part)
            part.seek(self._done)
            while self._done < self._file.size:
                try:
                    data = response.read1(min(_CHUNK_BYTES, self._file.size - self._done))
                except (OSError, http.client.HTTPException) as error:
                    raise self._cut(error) from error
                if not data:
                    raise self._cut(None)
                self._append(data, part)
                yield Event(self._file, self._done)
            if response.length is None:  # The server did not announce the size.
                with contextlib.suppress(OSError, http.client.HTTPException):
                    if response.read1(1):
                        self._restart(part)
                        raise self._wrong_size(f"more than {self._file.size:,}")

    def _append(self, data: bytes, part: BinaryIO) -> None:
        while data:
            written = part.write(data)
            self._done += written
            data = data[written:]

    def _cut(self, error: Exception | None) -> _Failure:
        if isinstance(error, TimeoutError):
            reason = f"sent nothing for {STALL_SECONDS:g} s"
        else:
            reason = "cut the connection"
        return _Failure(f"{reason} after {self._done:,} of {counted(self._file.size, 'byte')}")

    def _wrong_size(self, size: str) -> _Failure:
        if size.isdecimal():
            size = f"{int(size):,}"
        return _Failure(f"has {size} bytes instead of {self._file.size:,}", False, False)

    def _check_answer(self, response: http.client.HTTPResponse, part: BinaryIO) -> None:
        """Checks the announced size, and restarts the file if the server sends all of it."""
        if response.status == 206:
            span, _, total = response.headers.get("Content-Range", "").partition("/")
            if total not in ("", "*", str(self._file.size)):
                raise self._wrong_size(total)
            if not span.startswith(f"bytes {self._done}-"):
                self._restart(part)
                raise _Failure("sent another range of bytes than the missing one")
        else:
            length = response.headers.get("Content-Length", str(self._file.size))
            if length != str(self._file.size):
                raise self._wrong_size(length)
            self._restart(part)  # The server ignores ranges.

    def _answer(self, url: str) -> http.client.HTTPResponse:
        """Returns an answer with the missing bytes or with all bytes. Raises _Failure."""
        headers = {"User-Agent": "densenet_jax", "Accept-Encoding": "identity"}
        if self._done:
            headers["Range"] = f"bytes={self._done}-"
        try:
            response = _open(urllib.request.Request(url, headers=headers), self._contact_seconds)
            self._reached = True
            return response
        except urllib.error.HTTPError as error:
            error.close()
            self._reached = True
            if error.code == 416 and self._done:
                self._done = 0
                return self._answer(url)
            transient = error.code in _TRANSIENT_STATUSES
            raise _Failure(f"answered {error.code} {error.reason}", transient, transient) from error
        except OSError as error:
            raise self._unreachable(error) from error
        except (http.client.HTTPException, ValueError) as error:
            raise _Failure(f"sent no HTTP answer ({type(error).__name__})") from error

    def _unreachable(self, error: OSError) -> _Failure:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            text = f"did not answer within {self._contact_seconds:g} s"
        elif isinstance(reason, socket.gaierror):
            text = "has no address here (no network, or a wrong name)"
        else:
            text = f"cannot be reached ({getattr(reason, 'strerror', None) or reason})"
        # Without a network, retries would only delay the message.
        return _Failure(text, True, self._reached or isinstance(reason, ConnectionResetError))


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[BinaryIO]:
    """Opens an unfinished file to read and write, and locks it against other processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        check_regular(path)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    with os.fdopen(descriptor, "r+b", buffering=0) as part:
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Another process may have renamed the file before it was locked.
            is_taken = not _is_at(descriptor, path)
        except BlockingIOError:
            is_taken = True
        except OSError:  # Files cannot be locked here.
            is_taken = False
        if is_taken:
            raise Interrupted(
                f"another process is downloading {path}: wait until that process ends, and run the "
                "same command again"
            )
        yield part


def _is_at(descriptor: int, path: pathlib.Path) -> bool:
    """Returns whether an open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _open(request: urllib.request.Request, seconds: float) -> http.client.HTTPResponse:
    """Returns the answer of a server. Raises TimeoutError if none comes within `seconds`.

    The request is made in a thread, because the look-up of a host name cannot be stopped.
    """
    answers: queue.SimpleQueue[http.client.HTTPResponse | Exception] = queue.SimpleQueue()
    abandoned = threading.Event()

    def ask() -> None:
        answer: http.client.HTTPResponse | Exception
        try:
            # `urlopen` would keep the proxies of its first call.
            answer = urllib.request.build_opener().open(request, timeout=STALL_SECONDS)
        except Exception as error:
            answer = error
        answers.put(answer)
        if abandoned.is_set():
            close_unused()

    def close_unused() -> None:
        with contextlib.suppress(queue.Empty):
            unused = answers.get_nowait()
            if isinstance(unused, http.client.HTTPResponse | urllib.error.HTTPError):
                unused.close()

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=seconds)
    except queue.Empty:
        abandoned.set()
        close_unused()
        raise TimeoutError from None
    if isinstance(answer, Exception):
        raise answer
    return answer
