"""Finds files of the Hugging Face hub in the local cache, or downloads them."""

import importlib.util
import re
import socket
import textwrap
import urllib.parse
from pathlib import Path

from densenet_jax.errors import InputError

HUB = "hf:"
_TIMEOUT_SECONDS = 5  # Longest wait for a connection.
_MAX_REASON_CHARACTERS = 200  # Longer reasons are shortened in messages.


def download(source: str, *names: str) -> Path:
    """Returns the path of the first of the files `names` that a repository has.

    Files in the local cache take precedence and need no network.

    Args:
      source: `hf:REPOSITORY`.
      names: names of files in the repository.

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

    repository, get = source.removeprefix(HUB), huggingface_hub.hf_hub_download
    for name in names:
        try:
            return Path(get(repository, name, local_files_only=True))
        except HFValidationError as error:
            raise InputError(f"{source} names no repository: {as_reason(error)}") from error
        except LocalEntryNotFoundError:
            pass
    # The library retries for half a minute, so a short connection test comes first.
    hub = urllib.parse.urlsplit(huggingface_hub.constants.ENDPOINT)
    try:
        socket.create_connection((hub.hostname, hub.port or 443), _TIMEOUT_SECONDS).close()
        for name in names[:-1]:
            try:
                return Path(get(repository, name))
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                pass
        return Path(get(repository, names[-1]))
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise InputError(
            f"{source} is not in the local cache and cannot be downloaded from {hub.hostname} "
            f"({as_reason(error)}): download its {names[0]} elsewhere and name the file"
        ) from error


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
        raise InputError(f"{source} needs huggingface_hub: `pip install huggingface_hub`")


def _check_connection() -> str:
    """Returns the name of the hub's host. Raises OSError if it does not answer."""
    import huggingface_hub

    # The library retries for half a minute, so a short connection test comes first.
    hub = urllib.parse.urlsplit(huggingface_hub.constants.ENDPOINT)
    port = hub.port or (80 if hub.scheme == "http" else 443)
    socket.create_connection((hub.hostname, port), _TIMEOUT_SECONDS).close()
    return str(hub.hostname)


def as_reason(error: Exception) -> str:
    """Returns the message of `error` as a part of a sentence, without control characters."""
    text = re.sub(r"\x1b\[[0-9;]*m|[\x00-\x08\x0b-\x1f\x7f]", "", str(error))
    return textwrap.shorten(
        text or type(error).__name__, _MAX_REASON_CHARACTERS, placeholder=" ..."
    )
