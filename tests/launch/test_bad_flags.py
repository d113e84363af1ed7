"""Any value of a config key is accepted, or refused with a one-line error."""

import json

import pytest
import small
from hypothesis import example, given, settings
from hypothesis import strategies as st

from densenet_jax.errors import InputError
from densenet_jax.train.config import base_config, check_config, flatten
from densenet_jax.train.record import RunDirectory
from launch import command

NETWORKS = ("densenet_bc_k12_d22", "wrn16_4", "fractalnet21", "highway19", "nin", "rdnet_tiny")
KEYS = sorted(flatten(base_config()))
NUMBERS = st.one_of(
    st.integers(-3, 300), st.integers(), st.floats(), st.sampled_from(["1e400", "-0.0", "0x10"])
)
TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12)
VALUES = st.one_of(
    NUMBERS.map(str),
    TEXTS,
    st.lists(st.one_of(NUMBERS, TEXTS), max_size=3).map(lambda items: str(tuple(items))),
    st.sampled_from(["True", "None", "()", "(1,)", "densenet_bc_k12_d100", "wrn16_4", "((", "{}"]),
)


def checks(flags):
    """Reads and checks a config as `launch.train` does before it reads data."""
    try:
        config = command.load_config(str(small.QUICKSTART), flags)
        check_config(config)
    except InputError as error:
        assert str(error) and "\n" not in str(error)
        return
    json.loads(config.to_json_best_effort())  # A run directory stores the config as JSON.


@settings(max_examples=400)
@given(key=st.sampled_from(KEYS), value=VALUES, network=st.sampled_from(NETWORKS))
@example(key="learning_rate_multipliers", value="(1, 2)", network=NETWORKS[0])
@example(key="learning_rate_drops", value="('a',)", network=NETWORKS[0])
@example(key="model.block_config", value="('a', 2)", network=NETWORKS[0])
@example(key="model.widths", value="(1.5,)", network="wrn16_4")
@example(key="model.bn_group_size", value="24", network=NETWORKS[0])
@example(key="model.bn_group_size", value="-1", network=NETWORKS[0])
@example(key="model.name", value="resnet-1", network=NETWORKS[0])
@example(key="model.name", value="densenet_bc_k99999999_d4", network=NETWORKS[0])
@example(key="epochs", value="1e3", network=NETWORKS[0])
@example(key="seed", value="-1", network=NETWORKS[0])
def test_any_value_of_any_key(key, value, network):
    checks([f"--config.model.name={network}", f"--config.{key}={value}"])


@settings(max_examples=100)
@given(text=TEXTS)
def test_any_key(text):
    checks([f"--config.{text}=1"])


@settings(max_examples=100)
@given(data=st.data())
def test_any_damage_to_the_config_of_a_run(finished_run, tmp_path_factory, data):
    """Damage is reported as an InputError, or changes nothing that matters."""
    run = tmp_path_factory.mktemp("run")
    content = bytearray((finished_run / "config.json").read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    (run / "config.json").write_bytes(content)
    try:
        config = RunDirectory(run).config()
        check_config(config)
    except InputError as error:
        assert "\n" not in str(error)


def test_a_batch_size_that_is_not_a_multiple_of_the_group():
    flags = [
        f"--config.{key}={value}"
        for key, value in (("model.bn_group_size", 24), ("batch_size", 64))
    ]
    with pytest.raises(InputError, match=r"batch of 64 images .* bn_group_size 24"):
        check_config(command.load_config(str(small.QUICKSTART), flags))
