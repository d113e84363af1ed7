"""Labels name a network by its facts."""

import pytest

from densenet_jax.models.catalog import list_models, model_config
from densenet_jax.models.labels import network_label

CASES = [
    ("densenet_bc_k8_d22", {"growth_rate": 4}, "densenet_bc_k4_d22"),
    ("densenet_bc_k8_d22", {"depth": 40}, "densenet_bc_k8_d40"),
    ("densenet_bc_k8_d22", {"block_config": (6, 6, 6)}, "densenet_bc_k8_d40"),
    ("densenet_bc_k8_d22", {"compression": 1.0}, "densenet_b_k8_d22"),
    ("densenet_bc_k8_d22", {"stem_features": 16}, "densenet_bc_k8_d22"),
    (
        "densenet_bc_k8_d22",
        {"growth_rate": 4, "compression": 0.3},
        "densenet_bc_k4_d22, compression 0.3",
    ),
    (
        "densenet_bc_k12_d22",
        {"growth_rate": 4, "block_config": (1, 1)},
        "densenet_bc_k4_d22, block_config (1, 1)",
    ),
    (
        "densenet_bc_k12_d22",
        {"bottleneck": 0, "compression": 1.0},
        "densenet_k12_d22, stem_features 24",
    ),
    ("densenet_bc_k8_d22", {"num_classes": 7}, "densenet_bc_k8_d22, num_classes 7"),
    ("densenet121", {"growth_rate": 48}, "densenet121, growth_rate 48"),
    ("densenet121", {"block_config": (6, 12, 32, 32)}, "densenet169"),
    ("preresnet29", {}, "preresnet29"),
    ("nin", {"companions": True}, "dsn"),
]


@pytest.mark.parametrize("name, settings, expected", CASES)
def test_a_label_has_the_facts(name, settings, expected):
    assert network_label(name, settings) == expected


@pytest.mark.parametrize("name", [*list_models(), "densenet_c_k6_d22", "wrn40_4"])
def test_a_network_of_the_catalogue_keeps_its_name(name):
    assert network_label(name, {}) == name
    config = model_config(name)
    settings = {"in_channels": 5, "num_classes": config.num_classes}
    assert network_label(name, settings, omitted=["in_channels"]) == name
