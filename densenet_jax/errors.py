"""The exceptions whose message is for the user, and what messages are made with."""

import difflib
from collections.abc import Sequence


class InputError(ValueError):
    """A wrong argument, config, file or folder, told in one sentence: what was wrong, what to do.

    Commands print the sentence without a stack trace and exit with status 2.
    """


class UnsupportedFile(ValueError):
    """A sound file of a kind that is not read.

    Its message completes a sentence that begins with the name of the file.
    """


class RunError(RuntimeError):
    """A run that failed and would fail again, in one sentence: a NaN loss, too little memory.

    Commands exit with FAILED_STATUS.
    """


class Interrupted(RunError):
    """A run that its machine cut off, in one sentence: a lost process, a full disk.

    Once the cause is gone, the same command resumes the run. Commands exit with INTERRUPTED_STATUS.
    """


class Preempted(RuntimeError):
    """A run that received a signal to stop and saved itself.

    Commands exit with PREEMPTED_STATUS.
    """


INTERRUPTED_STATUS = 3
FAILED_STATUS = 4
PREEMPTED_STATUS = 75  # EX_TEMPFAIL: the same command resumes the run.


def counted(number: int, noun: str) -> str:
    """Returns the number with its noun: "1 epoch", "2,000 epochs"."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{ending}"


def suggest(word: str, known: Sequence[str]) -> str:
    """Ends a sentence about an unknown `word`: with the closest known one, or with all of them."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(known)}."
