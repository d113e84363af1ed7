"""How many threads and processes read pictures on this machine."""

import os


def cores() -> int:
    """Returns how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def default_workers() -> int:
    """Returns how many processes decode pictures; 0 on a small host, where threads do as well."""
    return 0 if cores() <= 4 else min(cores() - 2, 32)
