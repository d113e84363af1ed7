"""Finds files of the Hugging Face hub in the local cache, or downloads them."""

import functools
import importlib.util
import queue
import re
import socket
import textwrap
import threading
import urllib.parse
import urllib.request
from pathlib import Path

from densenet_jax.errors import InputError

HUB = "hf:"
_TIMEOUT_SECONDS = 4  # Longest wait for a connection.
_MAX_REASON_CHARACTERS = 200  # Longer reasons are shortened in messages.


def download(source: str, *names: str, revision: str | None = None) -> Path:
    """Returns the path of the first of the files `names` that a repository has.

    Files in the local cache take precedence and need no network.

    Args:
      source: `hf:REPOSITORY`.
      names: names of files in the repository.
      revision: commit, branch or tag; the newest commit of the main branch by default. The parent
        directory of a returned path has the name of its commit.

    Raises:
      InputError: huggingface_hub is not installed, the name of the repository is impossible, the
        hub cannot be reached, or the repository has none of the files.
    """
    _require(source)
    import huggingface_hub
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    repository = source.removeprefix(HUB)
    get = functools.partial(huggingface_hub.hf_hub_download, revision=revision)
    for name in names:
        try:
            return Path(get(repository, name, local_files_only=True))
        except HFValidationError as error:
            raise InputError(f"{source} names no repository: {as_reason(error)}") from error
        except LocalEntryNotFoundError:
            pass
    host = urllib.parse.urlsplit(huggingface_hub.constants.ENDPOINT).hostname
    try:
        _check_connection()
        for name in names:
            try:
                return Path(get(repository, name))
            except LocalEntryNotFoundError:  # A lost connection.
                raise
            except EntryNotFoundError:
                pass
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        command = f"hf download {repository} --local-dir DIR"
        raise InputError(
            f"{source} is not in the local cache and cannot be downloaded from {host} "
            f"({as_reason(error)}): run `{command}` where there is a network, copy DIR here, and "
            "name DIR instead"
        ) from None
    raise InputError(
        f"{source} has no {' and no '.join(names)}: choose another repository, or download its "
        "weights and name the file"
    )


def upload(directory: Path, target: str) -> str:
    """Uploads the files in `directory` to a repository, created if missing; returns its address.

    Raises:
      InputError: huggingface_hub is not installed, `target` is not `hf:USER/NAME`, or the hub
        cannot be reached or refuses.
    """
    _require(target)
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    repository = target.removeprefix(HUB)
    if not target.startswith(HUB) or repository.count("/") != 1:
        raise InputError(f"--push is {target!r}: give hf:USER/NAME")
    api = huggingface_hub.HfApi(endpoint=huggingface_hub.constants.ENDPOINT)
    try:
        _check_connection()
        api.create_repo(repository, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=directory).repo_url)
    except HFValidationError as error:
        raise InputError(f"{target} names no repository: {as_reason(error)}") from error
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise InputError(
            f"cannot upload to {target} ({as_reason(error)}): check the network and log in with "
            "`hf auth login`"
        ) from error


def _require(source: str) -> None:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise InputError(f"{source} needs huggingface_hub: `pip install 'huggingface_hub>=1'`")


def _check_connection() -> None:
    """Raises OSError if neither the hub nor the proxy before it accepts a connection in time.

    The library would retry for half a minute.
    """
    import huggingface_hub

    address = urllib.parse.urlsplit(huggingface_hub.constants.ENDPOINT)
    proxy = urllib.request.getproxies().get(address.scheme)
    if proxy and not urllib.request.proxy_bypass(str(address.hostname)):
        address = urllib.parse.urlsplit(proxy)
    port = address.port or (80 if address.scheme == "http" else 443)
    answers: queue.SimpleQueue[OSError | None] = queue.SimpleQueue()

    def connect() -> None:
        try:
            socket.create_connection((address.hostname, port), _TIMEOUT_SECONDS).close()
            answers.put(None)
        except OSError as error:
            answers.put(error)

    # In a thread, because the look-up of a host name cannot be stopped.
    threading.Thread(target=connect, daemon=True).start()
    try:
        error = answers.get(timeout=_TIMEOUT_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"{address.hostname} does not answer") from None
    if error:
        raise error


def as_reason(error: Exception) -> str:
    """Returns the message of `error` as a part of a sentence, without control characters."""
    text = re.sub(r"\x1b\[[0-9;]*m|[\x00-\x08\x0b-\x1f\x7f]", "", str(error))
    return textwrap.shorten(
        text or type(error).__name__, _MAX_REASON_CHARACTERS, placeholder=" ..."
    )
