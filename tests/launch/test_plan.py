"""`python -m launch.plan`: memory and costs, or one sentence that says what is missing."""

import json

import pytest
import small

from densenet_jax.analysis import targets
from launch import command
from launch import plan as launch_plan

CONFIG = ("--config", str(small.QUICKSTART), *small.flags(small.PLAIN | {"data.holdout": 0}))


def run_plan(*arguments):
    return command.run(launch_plan.main, ["--compile_cache=off", *CONFIG, *arguments])


def test_table_and_json(capsys):
    assert run_plan("--target", "cpu", "--json") == 0
    *table, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert {"params", "macs", "fits", "max_batch", "memory"} <= found.keys()
    assert {"temp_bytes", "argument_bytes", "output_bytes"} <= found["memory"].keys()
    assert found["fits"] is True and found["max_batch"] > 64
    assert found["remat"] == "concat" and "remat concat" in table[0]
    assert any(line.split()[-1] == f"{found['max_batch']:,}" for line in table)


def test_compiles_in_another_process_where_this_one_is_not_set_up(monkeypatch, capfd):
    monkeypatch.delenv("JAX_PLATFORMS")
    assert run_plan() == 0
    assert "largest batch that fits" in capfd.readouterr().out


@pytest.mark.parametrize(("name", "extra"), [("h100", "cuda12"), ("tpu-v5e-8", "tpu")])
def test_says_what_to_install(name, extra, monkeypatch, tmp_path, capsys):
    if targets.target(name).compiler_is_installed():
        pytest.skip("the compiler is installed here")
    monkeypatch.setattr(launch_plan, "COMPILERS", tmp_path)
    assert run_plan("--target", name) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "-m venv" in error and f"jax[{extra}]==" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "h1000"), "did you mean 'h100'"),
        (("--config.model.depth=11",), "depth"),
        (("--target", "cpu", "--config.batch_size=0"), "batch_size is 0"),
        (("--config.data.name=cifar11",), "did you mean 'cifar"),
    ],
)
def test_wrong_input(arguments, message, capsys):
    assert run_plan(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
