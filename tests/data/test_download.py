"""Downloads from a real server that cuts, lies, refuses and stalls: the right file, or one line."""

import errno
import fcntl
import os
import pathlib
import resource
import signal
import socket
import time

import file_server
import numpy as np
import pytest

from densenet_jax.data import archives, download, registry, sources
from densenet_jax.errors import InputError, Interrupted, RunError

CONTENT = np.random.default_rng(0).bytes(100_000)
HALF = len(CONTENT) // 2
FULL = pathlib.Path("/dev/full")  # A device that has no space left.
SETS = ("cifar10", "cifar100", "svhn", "fashion_mnist")


@pytest.fixture
def server(monkeypatch):
    with file_server.serving(monkeypatch, {"set.bin": CONTENT}) as server:
        yield server


def fetch(directory, url=None):
    return list(download.fetch("cifar10", directory, url))


def refuses(directory, kind, message, url=None):
    """Checks that `fetch` raises a sentence and leaves nothing under the final name."""
    before = set(directory.glob("*"))
    with pytest.raises(kind, match=message) as caught:
        fetch(directory, url)
    assert "\n" not in str(caught.value)
    assert {path.suffix for path in set(directory.glob("*")) - before} <= {".part"}


def has_file(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()} == {"set.bin": CONTENT}


@pytest.mark.parametrize("name", SETS)
def test_the_registry_has_all_files_that_the_reader_needs(name, tmp_path):
    files = registry.published_files(name)
    for file in files:
        assert file.url.startswith(("http://", "https://"))
        assert file.size > 1000
        assert len(file.sha256) == 64 and int(file.sha256, 16)
        official = archives._OFFICIAL.get(file.name)
        assert official in (None, [str(file.size), file.sha256])
        (tmp_path / file.name).write_bytes(b"")
    with pytest.raises(InputError, match="is damaged"):  # And not: is missing.
        sources.load(name, str(tmp_path))


def test_a_file_is_stored_once(server, tmp_path):
    events = fetch(tmp_path / "new" / "directory")
    assert has_file(tmp_path / "new" / "directory")
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert events[-1].done == len(CONTENT)
    fetch(tmp_path / "new" / "directory")
    assert len(server.requests) == 1


def test_another_server(server, tmp_path):
    server.files["other.bin"] = b"x"
    fetch(tmp_path, server.url.replace("sets", "mirror") + "/")
    assert has_file(tmp_path)


def test_a_proxy(server, tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/sets"))
    fetch(tmp_path, "http://mirror.invalid/sets")
    assert has_file(tmp_path)


@pytest.mark.parametrize(
    "faults",
    [
        ["cut", "cut"],
        ["hang up"],
        [503, 429],
        ["cut", "ignore range"],
        ["cut", "wrong range"],
        ["cut", 416],
        ["cut", 503, "cut"],
        ["slow"],
    ],
)
def test_faults_that_pass(server, tmp_path, faults):
    server.faults = list(faults)
    fetch(tmp_path)
    assert has_file(tmp_path)


def test_only_the_missing_bytes_are_requested(server, tmp_path):
    server.faults = ["cut", "cut"]
    fetch(tmp_path)
    quarter = HALF // 2
    assert server.requests == [
        ("set.bin", None, HALF),
        ("set.bin", f"bytes={HALF}-", quarter),
        ("set.bin", f"bytes={HALF + quarter}-", quarter),
    ]


def test_retries_are_counted_from_zero_after_progress(server, tmp_path, monkeypatch):
    server.faults = ["cut"] * 6
    with monkeypatch.context() as patch:
        patch.setattr(download, "_PROGRESS_BYTES", 100)
        fetch(tmp_path)
    assert has_file(tmp_path) and len(server.requests) == 7


def test_another_command_resumes(server, tmp_path, monkeypatch):
    server.faults = ["cut"]
    with monkeypatch.context() as patch:
        patch.setattr(download, "RETRY_SECONDS", ())
        refuses(tmp_path, Interrupted, "cut the connection after 50,000 of 100,000 bytes")
    assert (tmp_path / "set.bin.part").read_bytes() == CONTENT[:HALF]
    fetch(tmp_path)
    assert has_file(tmp_path)
    assert server.requests[1] == ("set.bin", f"bytes={HALF}-", HALF)


@pytest.mark.parametrize(
    "unfinished, requests",
    [(CONTENT, 0), (CONTENT + b"x", 1), (bytes(len(CONTENT)), 1), (bytes(HALF), 2)],
    ids=["whole", "longer", "wrong", "wrong half"],
)
def test_an_unfinished_file_with_any_content(server, tmp_path, unfinished, requests):
    (tmp_path / "set.bin.part").write_bytes(unfinished)
    fetch(tmp_path)
    assert has_file(tmp_path)
    assert len(server.requests) == requests


@pytest.mark.parametrize(
    "faults, kind, message",
    [
        ([404], RunError, r"because 127.0.0.1 answered 404 Not Found: name another server with --"),
        ([503] * 9, Interrupted, "answered 503 Service Unavailable: run the same command again"),
        (["hang up"] * 9, Interrupted, "cannot be reached .*: run the same command again later"),
        (["wrong bytes"], RunError, "sent a file with another SHA-256 digest"),
        (["longer"], RunError, "has 100,004 bytes instead of 100,000"),
        (["longer without length"], RunError, "has more than 100,000 bytes instead of 100,000"),
        (["cut", "longer"], RunError, "has 100,004 bytes instead of 100,000"),
    ],
)
def test_faults_that_last(server, tmp_path, faults, kind, message):
    server.faults = list(faults)
    refuses(tmp_path, kind, message)
    assert len(server.requests) <= 4


def test_a_server_that_stalls(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "STALL_SECONDS", file_server.SLOW_SECONDS / 4)
    server.faults = ["stall"] * 2
    fetch(tmp_path)
    assert has_file(tmp_path)


def test_nothing_answers(server, tmp_path, monkeypatch):
    server.faults = ["silent"] * 9
    monkeypatch.setattr(download, "CONTACT_SECONDS", file_server.SLOW_SECONDS / 4)
    start = time.monotonic()
    refuses(tmp_path, Interrupted, "127.0.0.1 did not answer within 0.1 s: run the same")
    assert time.monotonic() - start < file_server.SLOW_SECONDS
    assert list(tmp_path.iterdir()) == []


def test_no_server_and_no_address(server, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        refuses(tmp_path, Interrupted, "cannot be reached .Connection refused.: run", url)


@pytest.mark.parametrize(
    "url", ["", "file:///etc", "ftp://a/b", "http://", "http://a:b/", "http://a b/"]
)
def test_a_url_that_cannot_be_used(server, tmp_path, url):
    refuses(tmp_path, InputError, "cannot be used: write http://SERVER/DIRECTORY", url)


@pytest.mark.parametrize("fault", [404, "wrong bytes", "cut"])
def test_the_mirror_is_asked_next(server, tmp_path, monkeypatch, fault):
    monkeypatch.setattr(registry, "_MIRRORS", {"cifar10": [f"{server.url}/mirror"]})
    monkeypatch.setattr(download, "RETRY_SECONDS", ())
    server.faults = [fault]
    fetch(tmp_path)
    assert has_file(tmp_path)
    assert [request[2] for request in server.requests[1:]] == [HALF if fault == "cut" else 2 * HALF]


def test_an_existing_file_is_never_overwritten(server, tmp_path):
    (tmp_path / "set.bin").write_bytes(bytes(len(CONTENT)))
    refuses(tmp_path, InputError, r"set.bin exists, but it is not the published file .*: remove it")
    assert (tmp_path / "set.bin").read_bytes() == bytes(len(CONTENT))
    (tmp_path / "set.bin").unlink()
    os.mkfifo(tmp_path / "set.bin")
    refuses(tmp_path, InputError, "is a named pipe")
    assert server.requests == []


def test_a_directory_that_cannot_be_written_to(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for directory in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="choose another directory with --out"):
            fetch(directory)
    os.mkfifo(tmp_path / "set.bin.part")
    refuses(tmp_path, InputError, "set.bin.part is a named pipe")
    assert server.requests == []


@pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")
def test_a_full_disk(server, tmp_path, monkeypatch):
    def no_space(self, data, part):
        with FULL.open("wb", buffering=0) as full:
            full.write(data)

    with monkeypatch.context() as patch:
        patch.setattr(download._Download, "_append", no_space)
        refuses(tmp_path, Interrupted, r"No space left on device.: free 100,000 bytes and run the")
    fetch(tmp_path)
    assert has_file(tmp_path)


def test_a_file_size_limit_of_the_process(server, tmp_path):
    """The system stops the writing in the middle, as a quota does; a later command resumes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, limits[1]))
        refuses(tmp_path, InputError, os.strerror(errno.EFBIG))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "set.bin.part").stat().st_size == HALF
    fetch(tmp_path)
    assert has_file(tmp_path)
    assert server.requests[1] == ("set.bin", f"bytes={HALF}-", HALF)


def test_two_commands_at_a_time(server, tmp_path):
    with (tmp_path / "set.bin.part").open("wb") as part:
        fcntl.flock(part, fcntl.LOCK_EX)
        refuses(tmp_path, Interrupted, "another process is downloading .*set.bin.part: wait until")
    fetch(tmp_path)
    assert has_file(tmp_path)


def test_names(tmp_path):
    with pytest.raises(
        InputError, match="no data set 'cifar11' to download: did you mean 'cifar10"
    ):
        registry.check_name("cifar11")
    with pytest.raises(
        InputError, match="'digits' to download: choose one of cifar10, cifar100, s"
    ):
        registry.check_name("digits")
    with pytest.raises(InputError, match=r"imagenet cannot be downloaded .*launch.prepare"):
        registry.check_name("imagenet")
