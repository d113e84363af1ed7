"""Numbers of threads and processes that read pictures on this machine."""

import os


def cores() -> int:
    """Returns the number of CPU cores available to this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_workers() -> int:
    """Returns the default number of processes that decode pictures.

    Returns 0 on a host with at most 4 cores, where threads are as fast.
    """
    return 0 if cores() <= 4 else min(cores() - 2, 32)
