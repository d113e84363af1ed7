"""Every name, with its published size."""

import jax
import pytest
from flax import nnx

import densenet_jax as dj

# Counted, scale and shift of BatchNorm included; see the papers' Tables 1 and 2.
PARAMETERS = {
    "densenet_k12_d40": 1_019_722,
    "densenet_k12_d100": 6_979_642,
    "densenet_k24_d100": 27_249_082,
    "densenet_bc_k12_d100": 769_162,
    "densenet_bc_k24_d250": 15_324_406,
    "densenet_bc_k40_d190": 25_624_430,
    "densenet_bc_k36_d40": 1_542_682,
    "densenet_bc_k48_d40": 2_733_130,
    "densenet_bc_k60_d40": 4_261_690,
    "densenet121": 7_978_856,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
    "densenet161": 28_681_000,
    "densenet264": 33_337_704,
    "densenet232": 55_570_984,
}
CIFAR100_PARAMETERS = {
    "densenet_k12_d40": 1_060_132,
    "densenet_k12_d100": 7_084_852,
    "densenet_k24_d100": 27_457_972,
    "densenet_bc_k12_d100": 800_032,
    "densenet_bc_k24_d250": 15_480_556,
    "densenet_bc_k40_d190": 25_821_620,
}


def count(name: str, **overrides) -> int:
    model = nnx.eval_shape(lambda: dj.create_model(name, rngs=nnx.Rngs(0), **overrides))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def test_every_name_has_a_count():
    assert set(dj.list_models()) == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name):
    assert count(name) == PARAMETERS[name]


@pytest.mark.parametrize("name", CIFAR100_PARAMETERS)
def test_parameters_with_100_classes(name):
    assert count(name, num_classes=100) == CIFAR100_PARAMETERS[name]


def test_parameters_of_the_fashion_mnist_row():
    assert count("densenet_bc_k12_d100", in_channels=1) == 768_730


# The parameter-efficiency figure: B, C and BC start with 2k filters, the plain net with 16.
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("densenet_k12_d10", 37_762),
        ("densenet_k12_d34", 716_770),
        ("densenet_c_k12_d10", 23_530),
        ("densenet_c_k12_d40", 599_050),
        ("densenet_b_k12_d10", 26_386),
        ("densenet_b_k12_d76", 743_938),
        ("densenet_bc_k12_d40", 176_122),
        ("densenet_bc_k12_d88", 620_410),
    ],
)
def test_any_small_image_densenet_can_be_named(name, parameters):
    assert count(name) == parameters


def test_list_models_filters_by_pattern():
    assert dj.list_models("densenet1*") == ["densenet121", "densenet169", "densenet161"]


def test_block_config_replaces_depth():
    model = nnx.eval_shape(
        lambda: dj.create_model("densenet_bc_k12_d100", block_config=(2, 3), rngs=nnx.Rngs(0))
    )
    assert [len(block) for block in model.blocks] == [2, 3]


def test_unknown_names_are_refused_with_a_suggestion():
    with pytest.raises(dj.InputError, match="did you mean 'densenet121'"):
        dj.create_model("densenet-121", rngs=nnx.Rngs(0))
