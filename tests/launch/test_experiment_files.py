"""Users' experiment files: mistakes, paths with odd characters, keys that are unset."""

import re

import pytest
import small

from densenet_jax.errors import InputError
from densenet_jax.train.config import base_config, check_config, flatten
from densenet_jax.train.record import RunDirectory
from launch import command, experiment, paths, train
from launch.sweep.points import load_points

CONFIG = """
from densenet_jax.train.config import base_config
def get_config(arg="1"):
    config = base_config()
    config.epochs = int(arg)
    return config
"""
OPTIONAL = [key for key, value in flatten(base_config()).items() if value is None]
MISTAKES = {
    "def get_config(:": r"FILE, line 1: SyntaxError: invalid syntax",
    "\nimport not_a_module": r"FILE, line 2: ModuleNotFoundError: No module named 'not_a_module'",
    "wrong": r"FILE, line 1: NameError: name 'wrong' is not defined",
    "\0": "FILE: SyntaxError: .*null bytes",
    "get_config = 3": r"defines no get_config\(\)",
    "def get_config():\n    pass": r"get_config\(\) in FILE returns nothing.* return config",
    "def get_config():\n    return {}": r"returns an object of type dict, not a ConfigDict",
    "def get_config():\n    return 1 / 0": r"FILE, line 2: ZeroDivisionError: division by zero",
    "def get_config():\n    return open('/nowhere')": r"FILE, line 2: FileNotFoundError: .*nowhere",
    "def get_config(arg):\n    return 1": r"FILE: TypeError: .* argument: 'arg'",
    CONFIG.replace("config.epochs", "config.epoch"): r'FILE, line 5: .*Did you mean "epochs"',
    CONFIG.replace("int(arg)", "None"): "epochs is None: give it a value, such as its default 300",
    "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict()": (
        "the config has no key 'accumulate': begin it with base_config"
    ),
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_in_a_file_is_one_sentence(tmp_path, capsys, text):
    path = tmp_path / "mistake.py"
    path.write_text(text)
    argv = ["--config", str(path), "--workdir", str(tmp_path / "run"), "--compile_cache=off"]
    assert command.run(train.main, argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and len(error) < 600
    assert re.search(MISTAKES[text].replace("FILE", re.escape(str(path))), error)


def test_colons_in_paths(tmp_path, monkeypatch):
    path = tmp_path / "of.py:1" / "exp.py"
    path.parent.mkdir()
    path.write_text(CONFIG)
    assert command.load_config(str(path)).epochs == 1
    assert command.load_config(f"{path}:7").epochs == 7
    assert experiment.split(f"{path}:a.py:b") == (path, "a.py:b")
    assert str(experiment.split(r"C:\runs\exp.py:7")[0]) == r"C:\runs\exp.py"
    with pytest.raises(InputError, match="there is no config file nowhere:7"):
        command.load_config("nowhere:7")


@pytest.mark.parametrize(
    "spec, path, arg",
    [
        ("cvpr2017/table2/densenet_bc_k24_d250:c100+", "table2/densenet_bc_k24_d250.py", "c100+"),
        ("experiments/quickstart.py", "experiments/quickstart.py", ""),
        ("quickstart", "experiments/quickstart.py", ""),
        ("experiments/results/digits/seed=0", "experiments/results/digits/seed=0", ""),
    ],
)
def test_experiments_are_found_from_any_directory(tmp_path, monkeypatch, spec, path, arg):
    monkeypatch.chdir(tmp_path)
    found, found_arg = experiment.split(spec)
    assert str(found).endswith(path) and found.exists() and found_arg == arg
    assert command.load_config(spec).epochs > 0


def test_the_working_directory_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "quickstart.py").write_text(CONFIG)
    assert command.load_config("experiments/quickstart.py:7").epochs == 7


@pytest.mark.parametrize(
    "spec, name",
    [
        ("densenet_bc_k24_d250:c10", "cvpr2017/table2/densenet_bc_k24_d250"),
        ("quickstrat", "quickstart"),
    ],
)
def test_a_missing_experiment_has_a_suggestion(spec, name):
    with pytest.raises(InputError, match=f"did you mean '{name}', a config"):
        command.load_config(spec)


def test_none_unsets_optional_keys(tmp_path):
    """None works in flags, in sweeps and in the config of a run, as an earlier value too."""
    for key in OPTIONAL:
        config = command.override(base_config(), [f"--config.{key}=None"])
        assert flatten(config)[key] is None
    config = base_config()
    config.init_from, config.model.compression = "file.pth", 0.5
    given = ["--config.init_from", "None", "-config.model.compression=None"]
    config = command.override(config, ["--config.init_from=other.pth", *given])
    assert config.init_from is None and config.model.compression is None
    given = ["--config.data.workers=None", "--config.data.workers=3", "--config.init_from=none"]
    config = command.override(base_config(), given)
    assert config.data.workers == 3 and config.init_from == "none"
    RunDirectory(tmp_path / "run").start(config, {})
    again = command.load_config(str(tmp_path / "run"), ["--config.data.workers=None"])
    assert again.data.workers is None and again.init_from == "none"


def test_none_in_sweeps(tmp_path):
    path = tmp_path / "sweep.py"
    points = 'hyper.sweep("config.init_from", [None, "/file.pth"])'
    settings = small.RUN | {"init_from": "/base.pth"}
    path.write_text(small.SWEEP_FILE.format(settings=settings, points=points))
    found = load_points(str(path), tmp_path)
    assert [point.config.init_from for point in found] == [None, "/file.pth"]
    assert command.load_config(found[0].spec, found[0].overrides).init_from is None


@pytest.mark.parametrize("key", ["epochs", "dtype", "learning_rate_drops", "data.augment"])
def test_none_is_refused_for_other_keys(key, tmp_path):
    with pytest.raises(InputError, match=f"{key} is None: give it a value"):
        command.override(base_config(), [f"--config.{key}=None"])
    damaged = small.config()
    damaged.update_from_flattened_dict({key: None})
    RunDirectory(tmp_path).start(damaged, {})
    with pytest.raises(InputError, match=f"{key} is None: give it a value"):
        check_config(RunDirectory(tmp_path).config())


def test_home_directories_are_expanded(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    text = CONFIG.replace("config.epochs", 'config.data.directory = "~/data"; config.epochs')
    (tmp_path / "exp.py").write_text(text)
    config = command.load_config("~/exp.py:3", ["--config.init_from=~/weights.pth"])
    assert config.epochs == 3
    assert config.data.directory == str(tmp_path / "data")
    assert config.init_from == str(tmp_path / "weights.pth")
    RunDirectory(tmp_path / "run").start(config, {})
    assert command.load_config("~/run") == config
    assert paths.typed_path("~/run") == tmp_path / "run"
    argv = ["--config=~/exp.py:0", "--compile_cache=~/cache"]
    assert command.run(train.main, [*argv, "--workdir=~/new"]) == 2
    assert "epochs is 0" in capsys.readouterr().err
    assert (tmp_path / "cache").is_dir() and not (tmp_path / "~").exists()
    with pytest.raises(InputError, match="'~nobody_here/x' begins with an unknown home directory"):
        command.load_config("~/exp.py", ["--config.init_from=~nobody_here/x"])
    for workdir, message in (("~nobody_here/x", "home directory"), ("", "the path is empty")):
        with pytest.raises(SystemExit):
            command.run(train.main, [*argv, "--workdir", workdir])
        assert message in capsys.readouterr().err
