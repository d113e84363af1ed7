"""Every value of a run's model.json and config.json is checked before anything is compiled."""

import json

import pytest
import small
from ml_collections import ConfigDict

from densenet_jax.errors import InputError
from densenet_jax.models import initializers, network
from densenet_jax.models.catalog import create_model, model_config
from densenet_jax.models.densenet import DenseNetConfig
from densenet_jax.models.resnet import ResNetConfig
from densenet_jax.train import saved_network
from densenet_jax.train.config import check_config
from densenet_jax.train.keys import KEYS
from launch import command, predict


def rewrite(run, name, change):
    """Applies `change` to the object in a JSON file of a run."""
    path = run / name
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


def put(**values):
    return lambda found: found.update(values)


def put_setting(**values):
    return lambda found: found["settings"].update(values)


CROP = {"resize": 8, "size": 8, "interpolation": "bicubic"}


@pytest.mark.parametrize(
    "change, message",
    [
        (put(family=["a"]), "family is"),
        (put(family="Dense"), "family is 'Dense', not one of DenseNetConfig, "),
        (put(settings=[1]), r"settings is \(1,\), not an object"),
        (lambda found: found.pop("settings"), "it has no 'settings'"),
        (put_setting(growth=4), "growth"),
        (put_setting(growth_rate="4"), "growth_rate is '4': it must be of type int"),
        (put_setting(growth_rate=True), "growth_rate is True: it must be of type int"),
        (put_setting(growth_rate=4.0), "growth_rate is 4.0: it must be of type int"),
        (put_setting(growth_rate=10**6), "growth_rate is 1000000: it must be at most 131,072"),
        (put_setting(num_classes=2**31), "num_classes is 2147483648: it must be at most"),
        (put_setting(in_channels=[1]), r"in_channels is \(1,\): it must be of type int"),
        (put_setting(block_config=[10**6]), "block_config is .*: it must be at most"),
        (put_setting(block_config=[1] * 3000), "block_config has 3,000 layers: use at most 2,048"),
        (put_setting(block_config="ab"), "block_config is 'ab': it must be of type tuple or None"),
        (put_setting(compression=10**400), "compression is 10+: it must be at most"),
        (put_setting(compression="x"), "compression is 'x': it must be of type float"),
        (put_setting(stem=["a"]), "stem is .*: choose one of"),
        (put_setting(remat=None), "remat is None: choose one of none, concat, layer"),
        (put_setting(post_activation=1), "post_activation is 1: it must be of type bool"),
        (put_setting(dtype="bogus"), "dtype is 'bogus': it must be of type dtype"),
        (put(classes="abcdefghij"), "classes is not a list of at most 10 names"),
        (put(classes=["a"] * 11), "classes is not a list of at most 10 names"),
        (put(classes=[*"abcdefghi", 7]), "classes is not a list of at most 10 names"),
        (put(crop=[8]), r"crop is \(8,\), not an object"),
        (put(crop={}), ""),
        (put(crop=CROP | {"resize": 10**6, "size": 10**6}), "more than the limit of 4096"),
        (put(crop=CROP | {"size": "8"}), "size is '8': it must be an integer"),
        (put(crop=CROP | {"interpolation": [1]}), "interpolation is"),
        (put(crop=CROP | {"other": 1}), "other"),
        (put(mean=[1, 2]), r"mean is \(1, 2\), not a number for each of 1 channel"),
        (put(mean=["a"]), "mean is .*, not a number"),
        (put(std=[0]), r"std is \(0,\), not a number above 0"),
        (put(std=[float("inf")]), "std is"),
        (put(std=[10**400]), "std is"),
        (put(std=5), "std is 5, not a number"),
        (put(preprocessing=["standardize"]), "preprocessing is .*, not a name"),
        (lambda found: found.pop("preprocessing"), "it has no 'preprocessing'"),
    ],
)
def test_values_of_model_json_are_checked(copied_run, change, message):
    rewrite(copied_run, "model.json", change)
    if message:
        with pytest.raises(InputError, match=rf"model\.json is damaged \(.*{message}"):
            saved_network.load_network(copied_run)
    else:
        saved_network.load_network(copied_run)


def test_a_growth_rate_that_differs_from_the_checkpoint_is_refused(copied_run):
    """A network with another width would run, so only a comparison finds the difference."""
    rewrite(copied_run, "model.json", put_setting(growth_rate=5))
    with pytest.raises(InputError, match=r"differs from the network in model\.json") as caught:
        saved_network.load_network(copied_run)
    assert "has shape" in str(caught.value) and "\n" not in str(caught.value)


def test_layers_that_the_checkpoint_lacks_are_refused(copied_run):
    rewrite(copied_run, "model.json", put_setting(block_config=[1, 2]))
    with pytest.raises(InputError) as caught:
        saved_network.load_network(copied_run)
    assert "\n" not in str(caught.value)


def test_class_names_do_not_control_the_terminal(copied_run, tmp_path, capsys):
    from PIL import Image

    names = [f"\x1b[31m{i}\r\x9b2J\u202e\n" for i in range(10)]
    rewrite(copied_run, "model.json", put(classes=names))
    picture = tmp_path / "\x1b]0;title\x07.png"
    Image.new("L", (8, 8)).save(picture)
    (tmp_path / "\x1b[2J.jpg").write_bytes(b"")
    argv = [str(tmp_path / "*.*"), "--weights", str(copied_run), "--compile_cache=off"]
    assert command.run(predict.main, argv) == 0
    shown = "".join(capsys.readouterr())
    assert not set(shown) & set("\x1b\r\x07\x9b\u202e")
    assert r"\u001b[31m" in shown and r"\u001b]0;title" in shown and r"\u001b[2J.jpg" in shown
    assert command.run(predict.main, [*argv, "--json"]) == 0
    assert not set(capsys.readouterr().out) & set("\x1b\r\x07\x9b\u202e")


def changed(key, value):
    """Returns a config with any value, of any type, as a file can contain."""
    config = small.config()
    group = config
    *groups, last = key.split(".")
    for name in groups:
        group = group[name]
    with config.unlocked(), group.ignore_type():
        group[last] = value
    return config


# What a key needs to have its largest value.
NEEDS = {
    "freeze_epochs": {"freeze": "conv0", "epochs": 10**6},
    "swa_epochs": {"epochs": 10**6},
    "warmup_epochs": {"epochs": 10**6},
    "epsilon": {"optimizer": "adamw"},
    "final_learning_rate": {"learning_rate_schedule": "cosine", "learning_rate": 1e38},
    "accumulate": {"batch_size": 2**20},
    "learning_rate_cycles": {"learning_rate_schedule": "cosine", "epochs": 10**6},
    "data.folds": {"data.holdout": 0},
    "data.fold": {"data.holdout": 0, "data.folds": 2**20},
}


@pytest.mark.parametrize("key", [key for key, row in KEYS.items() if row.bounds])
def test_bounds_of_numbers(key):
    least, most = KEYS[key].bounds
    for value in (least, most):
        config = changed(key, value)
        config.update_from_flattened_dict(NEEDS.get(key, {}))
        check_config(config)
    wrong = [
        least - 1,
        most + 1 if isinstance(most, int) else 1.01 * most,
        "1",
        float("nan"),
        float("inf"),
        (1,),
    ]
    if KEYS[key].kind is not float:  # ConfigDict converts these to floats.
        wrong += [True, 10**400]
    for value in wrong:
        with pytest.raises(InputError, match=rf"^{key} is .*: use an? \w+ from .* to "):
            check_config(changed(key, value))


@pytest.mark.parametrize(
    "key, value",
    [
        ("data.image_size", 10**6),
        ("epochs", 10**9),
        ("warmup_epochs", 1e300),
        ("model.num_classes", 2**31),
        ("model.growth_rate", 10**6),
        ("model.block_config", (10**6,)),
        ("model.bottleneck", 10**6),
        ("model.growth_rate", "12"),
        ("model.name", "densenet_k12_d1000000"),
        ("learning_rate_drops", (10**400,)),
        ("learning_rate_multipliers", (("a", 10**400),)),
    ],
)
def test_huge_values_of_a_config_are_refused(key, value):
    config = changed(key, value)
    if key == "model.name":
        config.model = ConfigDict({"name": value})
    with pytest.raises(InputError) as caught:
        check_config(config)
    assert "\n" not in str(caught.value)


def test_an_integer_too_large_for_a_float_is_refused(copied_run):
    rewrite(copied_run, "config.json", put(learning_rate=10**400))
    with pytest.raises(InputError, match=r"config\.json is damaged \(int too large"):
        command.load_config(str(copied_run))


def test_numbers_and_layers_of_a_network():
    DenseNetConfig(num_classes=network.MAX_NUMBER)
    with pytest.raises(InputError, match="num_classes is 131073: it must be at most 131,072"):
        DenseNetConfig(num_classes=network.MAX_NUMBER + 1)
    ResNetConfig(block_config=(network.MAX_LAYERS - 2, 1, 1))
    with pytest.raises(InputError, match="block_config has 2,049 layers: use at most 2,048"):
        ResNetConfig(block_config=(network.MAX_LAYERS - 1, 1, 1))
    assert model_config("densenet_k12_d2047").depth == network.MAX_LAYERS - 1
    with pytest.raises(InputError, match="depth is 2050: it must be at most 2,048"):
        model_config("densenet_k12_d2050")


def test_numbers_of_one_array(monkeypatch):
    from flax import nnx

    monkeypatch.setattr(initializers, "MAX_ARRAY_NUMBERS", 3 * 3 * 8 * 16)
    shape = dict(block_config=(1,), bottleneck=0, in_channels=1, stem_features=8)
    create_model("densenet_k12_d40", rngs=nnx.Rngs(0), growth_rate=16, **shape)
    with pytest.raises(InputError, match=r"parameters of shape \(3, 3, 8, 17\), more than 1,152"):
        create_model("densenet_k12_d40", rngs=nnx.Rngs(0), growth_rate=17, **shape)
