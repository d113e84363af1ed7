"""Every experiment is one that can be run."""

import pytest
import small

from densenet_jax.errors import InputError
from densenet_jax.train.config import check_config
from launch.command import load_config

NOT_CONFIGS = ("__init__.py", "published.py", "figures.py", "recipes.py", "forms.py")
FILES = sorted(
    path for path in (small.ROOT / "experiments").rglob("*.py") if path.name not in NOT_CONFIGS
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(small.ROOT)))
def test_experiments_can_be_run(path):
    config = load_config(str(path))
    check_config(config)
    assert config.is_locked


def test_values_are_set_from_flags():
    flags = small.flags({"learning_rate": 1, "model.compression": 0.3, "dtype": "bfloat16"})
    config = load_config(str(small.QUICKSTART), flags)
    assert config.learning_rate == 1.0 and config.dtype == "bfloat16"
    assert config.model.block_config == (1, 1) and config.model.compression == 0.3
    assert config.data.augment is True and config.data.flip is False


def test_value_after_a_space():
    config = load_config(str(small.QUICKSTART), ["--config.epochs", "3"])
    assert config.epochs == 3


def test_config_with_an_argument(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(
        "from densenet_jax.train.config import base_config\n"
        "def get_config(arg='5'):\n"
        "    config = base_config()\n"
        "    config.epochs = int(arg)\n"
        "    return config\n"
    )
    assert load_config(str(path)).epochs == 5
    assert load_config(f"{path}:7").epochs == 7
    assert load_config(f"{path}:7", ["--config.epochs=9"]).epochs == 9


def test_unlocked_config_is_locked(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict({'epochs': 1})\n"
    )
    with pytest.raises(InputError, match="epoch"):
        load_config(str(path), ["--config.epoch=3"])
