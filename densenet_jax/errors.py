"""The exceptions whose message is for the user."""


class InputError(ValueError):
    """A wrong argument, config, file or folder, told in one sentence: what was wrong, what to do.

    Commands print the sentence without a stack trace and exit with status 2.
    """


class RunError(RuntimeError):
    """A run that cannot go on, told in one sentence. Commands exit with status 3."""
