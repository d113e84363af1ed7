"""Every named network has its published size."""

import pytest
from cases import slow_except
from flax import nnx

import densenet_jax as dj
from densenet_jax.analysis.counts import count_macs, count_params
from densenet_jax.models.catalog import describe, list_models, model_config

# Counts include scale and shift of BatchNorm; see the papers' Tables 1 and 2.
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
    "densenetblur121d": 7_998_088,
    "densenet169": 14_149_480,
    "densenet201": 20_013_928,
    "densenet161": 28_681_000,
    "densenet264": 33_337_704,
    "densenet232": 55_570_984,
    "nin": 966_986,
    "nin_svhn": 1_986_026,
    "all_cnn_c": 1_369_738,
    "dsn": 3_547_496,  # Includes the companions, which evaluation does not use.
    "highway19": 2_256_838,
    "fractalnet21": 33_714_314,  # The paper says 38.6M.
    "resnet110": 1_727_962,
    "resnet1202": 19_421_274,
    "preresnet164": 1_703_258,
    "preresnet1001": 10_327_706,
    "wrn16_4": 2_748_890,
    "wrn16_8": 10_961_370,
    "wrn28_10": 36_479_194,
    # torchvision's counts.
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    # timm's: 23.86, 50.44, 87.45 and 186.27 million.
    "rdnet_tiny": 23_863_008,
    "rdnet_small": 50_436_448,
    "rdnet_base": 87_451_096,
    "rdnet_large": 186_269_632,
}
CIFAR100_PARAMETERS = {
    "densenet_k12_d40": 1_060_132,
    "densenet_k12_d100": 7_084_852,
    "densenet_k24_d100": 27_457_972,
    "densenet_bc_k12_d100": 800_032,
    "densenet_bc_k24_d250": 15_480_556,
    "densenet_bc_k40_d190": 25_821_620,
    "nin": 984_356,
    "all_cnn_c": 1_387_108,
    "highway19": 2_265_928,
    "resnet110": 1_733_812,
    "preresnet164": 1_726_388,
    "preresnet1001": 10_350_836,
    "wrn16_8": 11_007_540,
    "wrn28_10": 36_536_884,
}
# Multiply-adds for one image, in millions, as printed in the papers or counted from their code.
MACS = {
    "densenet_k12_d40": 264.8,
    "densenet_bc_k12_d100": 287.9,
    "densenet_bc_k40_d190": 9301.9,
    "densenet121": 2834,
    "densenet161": 7728,
    "densenet264": 5752,
    "nin": 222.5,
    "nin_svhn": 274,
    "all_cnn_c": 281.2,
    "dsn": 222.5,
    "highway19": 330.8,
    "fractalnet21": 845,
    "resnet110": 252.9,
    "resnet1202": 2829,
    "preresnet164": 244.5,
    "preresnet1001": 1488,
    "wrn16_4": 392.6,
    "wrn16_8": 1548,
    "wrn28_10": 5243,
    "resnet50": 4089,
    "rdnet_tiny": 5033,
    "rdnet_small": 8706,
}


# Smaller than others of their family, which take up to ten times as long to trace.
FAST = (
    *("densenet_k12_d40", "densenet_bc_k12_d100", "densenet_bc_k36_d40", "densenet121"),
    *("nin", "nin_svhn", "all_cnn_c", "dsn", "highway19", "fractalnet21"),
    *("resnet110", "preresnet164", "wrn16_4", "wrn28_10", "resnet34", "resnet50", "rdnet_tiny"),
)
FAST_WITH_100_CLASSES = ("densenet_k12_d40", "nin", "wrn16_8")
FAST_MACS = (
    *("densenet_k12_d40", "nin", "all_cnn_c", "dsn", "highway19", "fractalnet21"),
    *("resnet110", "wrn16_4", "resnet50"),
)


def count(name: str, **overrides) -> int:
    return count_params(model_config(name, **overrides))


def test_every_name_has_a_count():
    assert set(dj.list_models()) == set(PARAMETERS)


@pytest.mark.parametrize("name", slow_except(FAST, PARAMETERS))
def test_parameters(name):
    assert count(name) == PARAMETERS[name]


@pytest.mark.parametrize("name", slow_except(FAST_WITH_100_CLASSES, CIFAR100_PARAMETERS))
def test_parameters_with_100_classes(name):
    assert count(name, num_classes=100) == CIFAR100_PARAMETERS[name]


@pytest.mark.parametrize("name", slow_except(FAST_MACS, MACS))
def test_multiply_adds(name):
    config = model_config(name)
    size = 224 if config.num_classes == 1000 else 32
    printed = MACS[name]
    digits = 1 if isinstance(printed, float) else 0
    assert round(count_macs(config, size, size) / 1e6, digits) == printed


def test_dsn_without_its_companions():
    assert count("dsn", companions=False) == 966_986


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
        ("preresnet11", 126_746),
        ("preresnet65", 683_162),
    ],
)
def test_any_small_network_can_be_named(name, parameters):
    assert count(name) == parameters


@pytest.mark.parametrize(
    ("widths", "parameters"), [((32, 64, 128), 33_338), ((48, 96, 192), 72_474)]
)
def test_the_narrow_networks_of_the_parameter_efficiency_figure(widths, parameters):
    assert count("preresnet11", widths=widths) == parameters


def test_the_stochastic_depth_network_for_svhn():
    assert count("resnet110", block_config=(25, 25, 25)) == 2_408_474


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


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet111", "6 n \\+ 2, for example 110 or 116"),
        ("preresnet8", "9 n \\+ 2, for example 11 or 20"),
        ("wrn17_2", "6 n \\+ 4, for example 16 or 22"),
        ("wrn16_0", "at least 1"),
        ("wrn16", "did you mean 'wrn16_"),
        ("resnet110_4", "did you mean 'resnet110'"),
    ],
)
def test_impossible_residual_networks(name, message):
    with pytest.raises(dj.InputError, match=message):
        model_config(name)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("resnet110", {"growth_rate": 12}, "resnet110 has no setting 'growth_rate'"),
        ("resnet110", {"widths": (16, 32)}, "a number for each stage"),
        ("resnet110", {"widths": (16, 8, 8)}, "shrink"),
        ("resnet110", {"survival": 0.0}, "survival is 0"),
        ("resnet110", {"shortcut": "none"}, "choose one of projection, subsample, pool"),
        ("nin", {"mlpconv_widths": (1, 2)}, "3 blocks must have 8"),
        ("highway19", {"widths": (4, 4)}, "a number for each stage"),
        ("fractalnet21", {"drop_path_rate": 1.0}, "drop_path_rate is 1"),
        ("rdnet_tiny", {"downsampling": (0,)}, "stages from 1 to 6"),
        ("densenet121", {"se_ratio": -1}, "se_ratio is -1"),
    ],
)
def test_impossible_settings(name, overrides, message):
    with pytest.raises(dj.InputError, match=message):
        model_config(name, **overrides)


@pytest.mark.parametrize(
    "name, overrides, expected",
    [
        ("densenet121", {}, ("densenet121", {})),
        ("densenet_bc_k12_d22", {"num_classes": 7}, ("densenet_bc_k12_d22", {"num_classes": 7})),
        ("densenet_k12_d40", {}, ("densenet_k12_d40", {})),
        ("densenet_c_k6_d22", {"remat": "none"}, ("densenet_c_k6_d22", {"remat": "none"})),
        ("preresnet29", {}, ("preresnet164", {"block_config": (3, 3, 3)})),
        ("rdnet_tiny", {"num_classes": 5}, ("rdnet_tiny", {"num_classes": 5})),
    ],
)
def test_a_config_is_described_by_the_nearest_name(name, overrides, expected):
    config = model_config(name, **overrides)
    assert describe(config) == expected
    found, settings = describe(config)
    assert model_config(found, **settings) == config


@pytest.mark.parametrize("name", list_models())
def test_every_network_is_described_by_its_name(name):
    config = model_config(name)
    found, settings = describe(config)
    assert model_config(found, **settings) == config and settings == {}
