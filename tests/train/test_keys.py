"""The rows of the table of config keys: defaults, accepted values and remedies."""

import pytest

from densenet_jax.train.config import all_keys, base_config, defaults, flatten, refusal
from densenet_jax.train.keys import KEYS, Key


@pytest.mark.parametrize("key", KEYS)
def test_a_row_accepts_its_default_and_its_choices(key):
    row = KEYS[key]
    assert row.accepts(row.default)
    assert (row.default is None) == (row.optional is not None)
    assert row.kind in (bool, int, float, str, tuple)
    assert not row.choices or (row.kind is str and all(map(row.accepts, row.choices)))
    if row.bounds:
        assert row.kind in (int, float) and row.bounds[0] < row.bounds[1]
    # `--help` appends the choices and the default to the text.
    assert row.help == row.help.strip() and not row.help.endswith((".", ";"))


def test_the_base_config_has_the_defaults_of_the_table():
    assert {key: row.default for key, row in all_keys().items()} == flatten(base_config())
    assert all(row.optional for key, row in all_keys().items() if key.startswith("model."))
    assert set(KEYS) <= set(defaults())


@pytest.mark.parametrize(
    ("row", "accepted", "refused", "remedy"),
    [
        (Key(1, "", bounds=(0, 2000)), (0, 2000), (-1, 2001, 1.0, True, "1", None),
         "use an integer from 0 to 2,000"),
        (Key(1.0, "", bounds=(0, 1e38)), (0, 0.5, 1e38), (-0.1, 2e38, float("nan"), True, None),
         "use a number from 0 to 1e+38"),
        (Key(None, "", optional=int, bounds=(0, 9)), (None, 9), (10, "9"),
         "use an integer from 0 to 9"),
        (Key("a", "", choices=("a", "b")), ("a", "b"), ("c", 1, None), "choose one of a, b"),
        (Key(None, "", optional=str, choices=("a", "b")), ("a", None), ("",),
         "choose one of a, b, or None"),
        (Key(True, ""), (True, False), (None,), "use True or False"),
        (Key((), ""), ((), (1,)), (None,), "use a tuple"),
    ],
)  # fmt: skip
def test_a_row_accepts_only_its_values(row, accepted, refused, remedy):
    assert all(map(row.accepts, accepted)) and not any(map(row.accepts, refused))
    assert row.remedy == remedy


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("epochs", "three", "epochs is 'three': use an integer from 1 to 1,000,000"),
        ("loss", 1, "loss is 1: choose one of cross_entropy, squared_hinge, sigmoid"),
        ("model.growth_rate", "x", "model.growth_rate is 'x': use an integer"),
        ("later.key", "x", "later.key is 'x': use a value of the key's type"),
    ],
)
def test_a_refused_value_is_reported_with_a_remedy(key, value, message):
    assert str(refusal(key, value)) == message
