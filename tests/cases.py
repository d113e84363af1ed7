"""Parametrisations of which the default run tests a few cases, and `pytest -m slow` the rest."""

from collections.abc import Iterable

import pytest


def slow_except(fast: Iterable, cases: Iterable) -> list:
    """Returns `cases` for `parametrize`, with all but those in `fast` marked slow."""
    fast, cases = list(fast), list(cases)
    assert all(case in cases for case in fast), "a fast case is missing from the cases"
    values = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [
        pytest.param(*value, marks=() if case in fast else pytest.mark.slow)
        for case, value in zip(cases, values, strict=True)
    ]
