"""`--help` of commands that take a config."""

import itertools
import re

import pytest

from densenet_jax.models.catalog import FAMILIES
from densenet_jax.models.network import NetworkConfig
from densenet_jax.train.config import all_keys, family_keys
from densenet_jax.train.keys import KEYS
from launch import command, train
from launch.config_help import config_help


@pytest.fixture(scope="module")
def sections():
    """The keys of each section, by its heading."""
    found = {}
    for line in config_help().splitlines():
        if line.startswith("config keys"):
            keys = found.setdefault(line, [])
        elif row := re.match(r"  (\S+(?:, \S+)*)  ", line):
            keys += row[1].split(", ")
    return found


def test_help_ends_with_the_config_keys(capsys):
    with pytest.raises(SystemExit) as caught:
        command.run(train.main, ["--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.endswith(f"\n\n{config_help()}\n")


def test_each_key_of_the_table_has_one_row(sections):
    text = config_help()
    assert max(map(len, text.splitlines())) <= 100
    for key, row in KEYS.items():
        [described] = re.findall(rf"^  {re.escape(key)}  .*(?:\n {{29}}.*)*", text, re.MULTILINE)
        words = " ".join(described.split())
        assert row.help in words
        assert not row.choices or f"; choices: {', '.join(row.choices)}; " in words
        default = "unset" if row.default is None else row.default
        assert words.endswith(f"; default: {default}")
    table, *_ = sections.values()
    assert table == list(KEYS)


def test_each_family_has_a_section_of_its_fields(sections):
    _, shared, *rest = sections.values()
    families = [family for family in FAMILIES if family.__base__ is NetworkConfig]
    assert len(rest) == len(families) == len(FAMILIES) - 1  # BlurDenseNet has DenseNet's fields.
    for family, keys in zip(families, rest, strict=True):
        assert sorted([*shared, *keys]) == sorted(family_keys(family))
        assert f"config keys of {family.__name__.removesuffix('Config')}:" in sections
    assert {*KEYS, *shared, *itertools.chain(*rest)} == set(all_keys())
