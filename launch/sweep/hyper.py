"""Functions that build the points of a sweep, for `get_hyper(hyper)` in a sweep file.

A point is a dict of settings, such as {"config.model.growth_rate": 12}. The functions have the
names of XManager's `hyper`.
"""

import itertools
from collections.abc import Iterable, Sequence

from densenet_jax.errors import InputError

Points = list[dict[str, object]]


def sweep(key: str, values: Iterable[object]) -> Points:
    """Returns a point for each value of one key, `config.KEY`."""
    return [{key: value} for value in values]


def product(sweeps: Sequence[Points]) -> Points:
    """Returns every combination of points, one from each sweep; the last sweep changes fastest."""
    return [_merged(points) for points in itertools.product(*sweeps)]


def zipit(sweeps: Sequence[Points]) -> Points:
    """Merges the first points of all sweeps, then the second points, and so on.

    Raises InputError if the sweeps differ in length.
    """
    lengths = [len(points) for points in sweeps]
    if len(set(lengths)) > 1:
        raise InputError(f"zipit needs sweeps of the same length, not {lengths}")
    return [_merged(points) for points in zip(*sweeps, strict=True)]


def chainit(sweeps: Sequence[Points]) -> Points:
    """Concatenates sweeps."""
    return list(itertools.chain(*sweeps))


def _merged(points: Iterable[dict[str, object]]) -> dict[str, object]:
    merged: dict[str, object] = {}
    for point in points:
        for key, value in point.items():
            if key in merged:
                raise InputError(f"the sweep sets {key} twice in one point: remove one")
            merged[key] = value
    return merged
