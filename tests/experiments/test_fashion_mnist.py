"""Configs and sweeps for Fashion-MNIST."""

import ast

import pytest
import small

from densenet_jax.analysis.counts import count_params
from densenet_jax.models.catalog import model_config
from densenet_jax.train.config import check_config, model_settings
from experiments import published
from launch.command import load_config
from launch.sweep.points import load_points

DIRECTORY = small.ROOT / "experiments" / "fashion_mnist"
ROWS = {
    "densenet_bc_k12_d100": "densenet_bc_k12_d100.py",
    "wrn28_10": "wide_resnet.py:wrn28_10",
    "wrn40_4": "wide_resnet.py:wrn40_4",
}


def params(config) -> int:
    settings = {"num_classes": 10, "in_channels": 1} | model_settings(config)
    return count_params(model_config(config.model.name, **settings))


def test_every_published_row_has_a_config():
    assert ROWS.keys() == published.FASHION_MNIST.keys()


@pytest.mark.parametrize("row", ROWS)
def test_heads_have_the_size_and_the_published_number(row):
    config = load_config(str(DIRECTORY / ROWS[row]))
    check_config(config)
    assert config.model.name == row and config.data.name == "fashion_mnist" and config.data.augment
    head = ast.get_docstring(ast.parse((DIRECTORY / ROWS[row].partition(":")[0]).read_text()))
    assert f"{params(config):,}" in head
    accuracy = published.FASHION_MNIST[row]
    assert f"{accuracy:.3f}" in head and f"{100 * (1 - accuracy):.1f}" in head


def test_variants_have_similar_sizes(tmp_path):
    points = load_points(str(DIRECTORY / "variants.py"), tmp_path)
    sizes = {params(point.config) for point in points}
    assert len(points) == 20 and sizes == {41_314, 41_374, 43_114, 40_404}
    head = ast.get_docstring(ast.parse((DIRECTORY / "variants.py").read_text()))
    assert all(f"{size:,}" in head for size in sizes)


def test_growth_rate_is_crossed_with_compression(tmp_path):
    points = load_points(str(DIRECTORY / "growth_rate_x_compression.py"), tmp_path)
    assert len({point.config.to_json() for point in points}) == 3 * 4 * 2
