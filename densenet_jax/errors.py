"""Exceptions whose messages address the user, and helpers that word the messages."""

import difflib
import re
from collections.abc import Sequence


class InputError(ValueError):
    """A wrong argument, config, file or directory.

    The message is one line: the problem, the value and a remedy. Commands print the message without
    a stack trace and exit with status 2.

    >>> from flax import nnx
    >>> import densenet_jax as dj
    >>> dj.create_model("densnet121", rngs=nnx.Rngs(0))
    Traceback (most recent call last):
        ...
    densenet_jax.errors.InputError: there is no model 'densnet121': did you mean 'densenet121'?
    """


class UnsupportedFile(ValueError):
    """An intact file of a kind that cannot be read.

    The message completes a sentence that begins with the name of the file.
    """


class UnreadableWeights(Exception):
    """The error for a file without readable weights. The message is the reason.

    Attributes:
      remedy: advice to the user, in the imperative.
    """

    def __init__(self, reason: str, remedy: str = "download it again"):
        super().__init__(reason)
        self.remedy = remedy


class TooLarge(UnreadableWeights):
    """The error for a file with more bytes of tensors than the limit."""

    def __init__(self, found: int, max_bytes: int):
        reason = f"its tensors take {found:,} bytes, more than the limit of {max_bytes:,}"
        super().__init__(reason, "name the model that has these weights")


class RunError(RuntimeError):
    """A failure that would recur on a retry, such as a NaN loss or too little memory.

    The message is one sentence. Commands exit with FAILED_STATUS.
    """


class Interrupted(RunError):
    """A failure of the machine, such as a lost process or a full disk.

    The message is one sentence. After the cause is removed, the same command resumes the run.
    Commands exit with INTERRUPTED_STATUS.
    """


class Preempted(RuntimeError):
    """A signal that stopped a run after a checkpoint. Commands exit with PREEMPTED_STATUS."""


_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
INTERRUPTED_STATUS = 3
FAILED_STATUS = 4
PREEMPTED_STATUS = 75  # EX_TEMPFAIL: the same command resumes the run.


_SHOWN = 3  # Names in a message; the rest are counted.


def few(names: Sequence[str]) -> str:
    """Returns the first names, and the number of the others: "a, b, c and 7 more"."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def counted(number: int, noun: str) -> str:
    """Returns the number with its noun: "1 epoch", "2,000 epochs"."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


def printable(text: object) -> str:
    """Returns the text with escapes for characters that control a terminal.

    Names and messages that come from files may hold such characters. Line ends and characters that
    reverse the reading direction are escaped too.
    """
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", str(text))


def suggest(word: str, known: Sequence[str]) -> str:
    """Returns the remedy for an unknown `word`: the closest or a longer known word, or else all."""
    close = difflib.get_close_matches(word, known, n=1)
    close = close or [name for name in known if name.startswith(word)]
    return f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(known)}"
