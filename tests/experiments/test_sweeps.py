"""The sweeps of this project have the networks of the figures."""

import ast

import pytest
import small

from densenet_jax.errors import InputError
from launch.sweep.points import load_points

SWEEPS = small.ROOT / "experiments" / "sweeps"
# Number of networks in the quick form and in the paper form of a sweep, and the data set of the
# paper form. A network that two curves of a figure share counts once.
SIZES = {
    "bottleneck": (12, 21, "imagenet"),
    "compression": (12, 20, "imagenet"),
    "connectivity": (15, 26, "imagenet"),
    "depth": (4, 6, "imagenet"),
    "exponential_growth": (6, 10, "imagenet"),
    "growth_rate": (15, 26, "imagenet"),
    "heat_map": (1, 1, "cifar10"),
    "imagenet": (8, 9, "imagenet"),
    "memory": (12, 48, "synthetic"),
    "parameter_efficiency": (20, 42, "cifar10"),
    "post_activation": (6, 9, "imagenet"),
    "training_curves": (2, 2, "cifar10"),
}


@pytest.mark.parametrize("name", SIZES)
def test_the_sweeps_of_this_project(name, tmp_path):
    path, (quick, paper, data) = SWEEPS / f"{name}.py", SIZES[name]
    assert len(load_points(str(path), tmp_path)) == quick
    points = load_points(f"{path}:paper", tmp_path)
    assert len(points) == paper
    assert {point.config.data.name for point in points} == {data}
    with pytest.raises(InputError, match="choose one of quick, paper"):
        load_points(f"{path}:large", tmp_path)


@pytest.mark.parametrize("name", SIZES)
def test_heads_have_the_command_and_the_cost(name):
    head = ast.get_docstring(ast.parse((SWEEPS / f"{name}.py").read_text()))
    assert f"--sweep experiments/sweeps/{name}.py " in head
    for form, size in zip(("Quick", "Paper"), SIZES[name], strict=False):
        assert f"{form} form: {size} network{'s' if size > 1 else ''}" in head


def test_sweeps_that_are_only_quick(tmp_path):
    points = load_points(f"{SWEEPS}/folds.py", tmp_path)
    assert [point.config.data.fold for point in points] == list(range(5))
    assert {point.config.data.folds for point in points} == {5}
    assert len(load_points(f"{SWEEPS}/growth_rate_x_compression_quick.py", tmp_path)) == 8
    others = {"__init__", "folds", "forms", "growth_rate_x_compression_quick"}
    assert {path.stem for path in SWEEPS.glob("*.py")} - others == SIZES.keys()
