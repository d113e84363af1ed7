"""Where commands keep what the next start can use again.

Imports no JAX, so that the tests can set JAX's variables first.
"""

import os
from pathlib import Path


def cache_directory() -> Path | None:
    """Returns this project's directory in the user's cache; None if the user has no home.

    An XDG_CACHE_HOME that is empty or relative counts as unset, as the XDG specification asks.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        try:
            home = Path.home()
        except RuntimeError:  # A user without a name, as in containers, and HOME is unset.
            return None
        if home == Path(home.root):  # HOME is empty, or a service's "/".
            return None
        base = home / ".cache"
    return base / "densenet_jax"
