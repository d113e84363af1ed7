"""The vocabulary of sweeps, which `get_hyper(hyper)` of a sweep file is given.

A sweep is a list of points, each a dict such as {"config.model.growth_rate": 12}. The words are
those of XManager's `hyper` and of the research codebases around it.
"""

import itertools
from collections.abc import Iterable, Sequence

from densenet_jax.errors import InputError

Points = list[dict[str, object]]


def sweep(key: str, values: Iterable[object]) -> Points:
    """A point for each of `values` of one config key, `config.KEY`."""
    return [{key: value} for value in values]


def product(sweeps: Sequence[Points]) -> Points:
    """Every combination of a point of each sweep; the last sweep changes fastest."""
    return [_merged(points) for points in itertools.product(*sweeps)]


def zipit(sweeps: Sequence[Points]) -> Points:
    """The first points of all sweeps together, the second ones together, and so on.

    Raises InputError if the sweeps differ in length.
    """
    lengths = [len(points) for points in sweeps]
    if len(set(lengths)) > 1:
        raise InputError(f"zipit needs sweeps of one length, not of {lengths}.")
    return [_merged(points) for points in zip(*sweeps, strict=True)]


def chainit(sweeps: Sequence[Points]) -> Points:
    """The points of one sweep after those of another."""
    return list(itertools.chain(*sweeps))


def _merged(points: Iterable[dict[str, object]]) -> dict[str, object]:
    merged = {}
    for point in points:
        for key, value in point.items():
            if key in merged:
                raise InputError(f"the sweep sets {key} twice in one point.")
            merged[key] = value
    return merged
