"""`python -m launch.plan`: memory and cost, or an error that names the missing compiler."""

import json

import jax
import pytest
import small

from densenet_jax.analysis import targets
from densenet_jax.analysis.plan import plan
from densenet_jax.analysis.roofline import estimate
from launch import command
from launch import plan as launch_plan

CONFIG = ("--config", str(small.QUICKSTART), *small.flags(small.PLAIN | {"data.holdout": 0}))


def run_plan(*arguments):
    return command.run(launch_plan.main, ["--compile_cache=off", *CONFIG, *arguments])


@pytest.mark.slow
def test_table_and_json(capsys):
    assert run_plan("--target", "cpu", "--json") == 0
    *table, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert {"params", "macs", "fits", "max_batch", "memory"} <= found.keys()
    assert {"temp_bytes", "argument_bytes", "output_bytes"} <= found["memory"].keys()
    assert found["fits"] is True and found["max_batch"] > 64
    assert found["remat"] == "concat" and "remat concat" in table[0]
    assert any(line.split()[-1] == f"{found['max_batch']:,}" for line in table)


def test_the_analytic_target_compiles_nothing(monkeypatch, tmp_path, capsys):
    def compile(*arguments, **options):
        raise AssertionError("this compiles")

    monkeypatch.setattr(jax.stages.Lowered, "compile", compile)
    assert run_plan("--target", "analytic", "--out", str(tmp_path / "plan"), "--json") == 0
    *table, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    assert found == json.loads((tmp_path / "plan" / "plan.json").read_text())
    # Digits of 8 x 8; stem 3x3 to 8, one plain layer to 4, a classifier of ten.
    assert found["params"] == 9 * 8 + 9 * 8 * 4 + 2 * 8 + 2 * 12 + 12 * 10 + 10
    assert found["macs"] == 64 * (9 * 8 + 9 * 8 * 4) + 120
    memory = found["memory"]
    assert memory["params_bytes"] == memory["momentum_bytes"] == 4 * found["params"]
    # At least the outputs of both convolutions.
    assert memory["activations_bytes"] > 64 * 64 * 12 * 4
    assert memory["total_bytes"] == sum(memory.values()) - memory["total_bytes"]
    assert f"{found['params']:,}" in "".join(table)


def test_this_batch_skips_the_search(tmp_path, capsys):
    assert run_plan("--target", "cpu", "--this_batch", "--out", str(tmp_path)) == 0
    found = json.loads((tmp_path / "plan.json").read_text())
    assert "max_batch" not in found and found["memory"]["temp_bytes"] > 0
    captured = capsys.readouterr()
    assert "compilation" not in captured.err
    row = "dense blocks              xla (kernels have not been measured to be faster on cpu)"
    assert row in captured.out.splitlines()


@pytest.mark.parametrize(
    ("flags", "form"),
    [
        (["--config.model.dropout_rate=0.2"], "xla (dropout_rate is 0.2)"),
        (["--config.model.block=xla"], "xla (as configured)"),
        ([], "depends on the device"),
    ],
)
def test_the_analytic_table_has_the_form_of_the_dense_blocks(flags, form, capsys):
    assert run_plan("--target", "analytic", *flags) == 0
    assert f"dense blocks              {form}" in capsys.readouterr().out.splitlines()


def test_networks_without_dense_blocks_have_no_such_row(capsys):
    config = f"{small.ROOT / 'experiments' / 'synthetic.py'}:resnet110"
    assert command.run(launch_plan.main, ["--config", config, "--target", "analytic"]) == 0
    assert "dense blocks" not in capsys.readouterr().out


def test_only_compiled_plans_know_what_freezing_saves(capsys):
    assert run_plan("--target", "analytic", "--config.freeze=conv0") == 2
    assert "whose savings only a compiled step shows" in capsys.readouterr().err


@pytest.mark.slow
def test_compiles_in_another_process_if_a_variable_is_missing(monkeypatch, capfd):
    monkeypatch.delenv("JAX_PLATFORMS")
    assert run_plan() == 0
    assert "largest batch that fits" in capfd.readouterr().out


@pytest.fixture
def planned(monkeypatch):
    """Plans the small network on the CPU in place of any target."""
    found = plan(small.config(small.PLAIN | {"data.holdout": 0}), targets.find_target("cpu"))
    monkeypatch.setattr(launch_plan, "_ready", lambda target: True)
    monkeypatch.setattr(launch_plan, "plan", lambda config, target: found)
    return found


@pytest.mark.parametrize(("name", "kept"), [("cpu", True), ("h100", False), ("tpu-v5e-1", False)])
def test_programs_for_absent_devices_are_not_kept(name, kept, planned, tmp_path, caplog):
    """JAX cannot load programs for absent devices."""
    argv = [*CONFIG, "--this_batch", f"--target={name}", f"--compile_cache={tmp_path / 'cache'}"]
    assert command.run(launch_plan.main, argv) == 0
    assert jax.config.jax_compilation_cache_dir == (str(tmp_path / "cache") if kept else None)
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        (
            "h100",
            [
                "kernels per step          10, launches 3 (6 without convolutions in CUDA graphs)",
                "collectives per step      1",
                "floor, all fused          2.0 MB per image, 42 us per step",
                "at 2 us per kernel        ",
                "at 4.5 us per kernel      ",
                "costliest                                 us   kernels        MB",
                "forward 1x1 convolution  ",
            ],
        ),
        (
            "tpu-v5e-1",
            [
                "kernels per step          8",
                "collectives per step      1",
                "floor, all fused          2.0 MB per image",
                "cycles per step           7,460",
                "costliest                             cycles   kernels",
                "backward 3x3 input gradient            7,000         1",
            ],
        ),
    ],
)
def test_the_estimate_is_part_of_the_table_and_of_the_json(name, lines, planned, capsys):
    program = (
        small.ROOT / "tests" / "analysis" / f"{'gpu' if name == 'h100' else 'tpu'}_step.hlo.txt"
    )
    planned["estimate"] = estimate(program.read_text(), targets.find_target(name), 64, 2e6, 0)
    assert run_plan("--target", name, "--this_batch", "--json") == 0
    *table, last = capsys.readouterr().out.splitlines()
    for line in lines:
        assert any(row.startswith(line) for row in table), line
    assert json.loads(last)["estimate"] == planned["estimate"]


@pytest.mark.parametrize(("name", "extra"), [("h100", "cuda12"), ("tpu-v5e-8", "tpu")])
def test_names_the_package_to_install(name, extra, monkeypatch, tmp_path, capsys):
    if targets.find_target(name).compiler_is_installed():
        pytest.skip("the compiler is installed here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert run_plan("--target", name) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "-m venv" in error and f"jax[{extra}]==" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--target", "h1000"), "did you mean 'h100'"),
        (("--target", "analytical"), "did you mean 'analytic'"),
        (("--target", "analytic", "--config.model.depth=11"), "depth"),
        (("--target", "analytic", "--config.data.name=folder"), "set data.name to imagenet"),
        (("--config.model.depth=11",), "depth"),
        (("--target", "cpu", "--config.batch_size=0"), "batch_size is 0"),
        (("--config.ema=0.9",), "did you mean 'ema_decay'"),
        (("--config.data.name=cifar11",), "did you mean 'cifar"),
    ],
)
def test_wrong_input(arguments, message, capsys):
    assert run_plan(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
