"""Examples in the docstrings of the public API give the results that they show."""

import doctest
import importlib

import pytest

MODULES = ("", ".errors", ".models.catalog", ".predict", ".weights")


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_the_shown_results(name):
    module = importlib.import_module(f"densenet_jax{name}")
    assert doctest.testmod(module).failed == 0
