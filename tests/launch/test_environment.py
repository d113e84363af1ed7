"""Commands in unusual environments: no device, no home, ASCII only, malformed variables."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import small
from cases import slow_except
from PIL import Image

from densenet_jax.data.places import cache_directory
from densenet_jax.errors import InputError
from launch import command, hosts
from launch.sweep import local

# Runs as a user without a name. The effective user stays root, to read files.
NO_HOME = """
import os, sys
os.setresuid(12345, 0, 0)
for name in ("HOME", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR"):
    os.environ.pop(name, None)
from launch import command, plan, train
argv = ["--config", "experiments/quickstart.py", "--workdir", sys.argv[1], "--config.epochs=0"]
assert command.run(train.main, argv) == 2
for main in (train.main, plan.main):
    try:
        command.run(main, ["--help"])
    except SystemExit as end:
        assert end.code == 0
"""


# Sends Ctrl-C during imports, or during a callback that drops exceptions.
EARLY_CTRL_C = """
import gc, os, signal, sys, time
sys.argv = ["-m"]
signal.signal(signal.SIGINT, signal.default_int_handler)  # The tests may run with another handler.
import launch
if "{when}" == "import":
    os.kill(os.getpid(), signal.SIGINT)
from launch import command

def main(argv):
    signals = [signal.SIGINT]
    gc.callbacks.append(lambda *_: signals and os.kill(os.getpid(), signals.pop()))
    gc.collect()
    time.sleep(10)
    raise AssertionError("Ctrl-C was dropped")

sys.exit(command.run(main))
"""


@pytest.mark.parametrize(
    ("when", "status", "stderr"),
    slow_except([("import", -2, "")], [("import", -2, ""), ("callback", 130, "interrupted\n")]),
)
def test_an_early_ctrl_c_ends_a_command(when, status, stderr):
    process = small.start("-c", EARLY_CTRL_C.format(when=when))
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, output, errors) == (status, "", stderr)


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(tmp_path, closed):
    command = f"exec {sys.executable} -m launch.report table2 --out {tmp_path}/report {closed}"
    subprocess.run(["sh", "-c", command], cwd=small.ROOT, check=True, capture_output=True)
    assert "DenseNet-BC" in (tmp_path / "report" / "table2.md").read_text()


@pytest.mark.slow
def test_missing_devices(tmp_path):
    """Each command reports one error before it does anything else."""
    train = ("launch.train", "--config", "experiments/quickstart.py", "--workdir", tmp_path / "run")
    commands = {
        train: {"JAX_PLATFORMS": "typo"},
        ("launch.predict", __file__, "--weights=none.pth"): {
            "JAX_PLATFORMS": "cuda",
            "CUDA_VISIBLE_DEVICES": "99",
        },
        ("launch.export", f"--weights={__file__}", "--model=densenet121", "--out=a.onnx"): {
            "JAX_PLATFORMS": "typo",
        },
        (*train, "--compile_cache=off"): {"SLURM_STEP_NUM_TASKS": "2"},
    }
    processes = [small.start("-m", *argv, **added) for argv, added in commands.items()]
    for process, added in zip(processes, commands.values(), strict=True):
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 2 and errors.count("\n") == 1, errors
        for name, value in added.items():
            assert name in errors and value in errors
    assert not (tmp_path / "run").exists()


def test_the_cache_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for value, expected in (
        ("", tmp_path / ".cache"),
        ("relative", tmp_path / ".cache"),
        ("/absolute", Path("/absolute")),
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_directory() == expected / "densenet_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    for home in ("", "/"):
        monkeypatch.setenv("HOME", home)
        assert cache_directory() is None


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without a name")
def test_a_user_without_a_home(tmp_path):
    process = small.start("-c", NO_HOME, tmp_path / "run", PYTHONWARNINGS="error")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output.count("usage:") == 2
    warning, error = errors.splitlines()
    assert "compiled programs are not stored: there is no home directory" in warning
    assert "epochs is 0" in error


def test_where_compiled_programs_are_kept(monkeypatch, tmp_path):
    """The flag takes precedence over JAX's variable, which takes precedence over the default."""
    variable = os.environ["JAX_COMPILATION_CACHE_DIR"]
    default = command.parser("").parse_args([]).compile_cache
    assert default is None and jax.config.jax_compilation_cache_dir == variable
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    for directory, expected in (
        (default, variable),
        ("~/flag", str(tmp_path / "flag")),
        ("gs://bucket", "gs://bucket"),
        ("off", None),
        (default, str(tmp_path / ".cache" / "densenet_jax" / "xla")),
    ):
        command.use_compile_cache(directory)
        assert jax.config.jax_compilation_cache_dir == expected
    assert {path.name for path in tmp_path.iterdir()} == {"flag", ".cache"}


def test_the_variable_sets_which_programs_are_kept(monkeypatch):
    name = "jax_persistent_cache_min_compile_time_secs"
    for value, expected in (("7", 7), ("", 0)):
        jax.config.update(name, 7)
        monkeypatch.setenv(name.upper(), value)
        command.use_compile_cache(None)
        assert getattr(jax.config, name) == expected


@pytest.mark.slow
def test_a_terminal_that_cannot_print_a_file_name(tmp_path, weights):
    """A command prints its results for any file names and any encoding."""
    for name in ("café.png".encode(), b"caf\xe9.png"):
        Image.new("RGB", (40, 40)).save(tmp_path / os.fsdecode(name))
    process = small.start(
        *("-m", "launch.predict", tmp_path, "--weights", weights, "--model", small.CLASSIFIER),
        *("--resize=40", "--crop=32", "--top=1"),
        PYTHONIOENCODING="ascii",
        FORCE_COLOR="1",  # Shows the progress bar as on a terminal.
    )
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert r"caf\xe9.png" in output and r"caf\udce9.png" in output


@pytest.mark.slow
def test_reports_in_an_ascii_locale(tmp_path):
    for seed in (0, 1):
        small.finish(tmp_path / "runs" / str(seed), 5.0 + seed, small.config(), seed=seed)
    process = small.start(
        *("-m", "launch.report", "sweep", "--runs", tmp_path / "runs", "--out", tmp_path / "out"),
        LC_ALL="C",
        PYTHONUTF8="0",
        PYTHONCOERCECLOCALE="0",
    )
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert r"\xb1" in output
    assert "5.50 ± 0.71" in (tmp_path / "out" / "sweep.md").read_text(encoding="utf-8")


def slurm(gpus):
    names = ("SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES", "SLURM_GPUS_ON_NODE")
    return dict(zip(names, ("2", "2", gpus), strict=True))


def test_variables_of_slurm(monkeypatch):
    assert hosts.gpus_of_slurm_task(slurm("gpu:8")) == list(range(8))
    assert hosts.gpus_of_slurm_task(slurm("")) is None
    with pytest.raises(InputError, match="SLURM_GPUS_ON_NODE is 'many'"):
        hosts.gpus_of_slurm_task(slurm("many"))
    alone = argparse.Namespace(coordinator=None, processes=None, process=None, timeout=60.0)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "")
    monkeypatch.setenv("JAX_PLATFORMS", "")
    hosts.join(alone)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2.5")
    with pytest.raises(InputError, match=r"SLURM_STEP_NUM_TASKS is '2\.5'"):
        hosts.join(alone)


@pytest.mark.parametrize(
    ("coordinator", "processes", "process"),
    [
        ("host", 2, 0),
        ("host:", 2, 0),
        ("host:65536", 2, 0),
        ("host:1", 2, 2),
        ("host:1", 0, 0),
        ("host:1", 2, -1),
    ],
)
def test_impossible_addresses(coordinator, processes, process):
    given = argparse.Namespace(
        coordinator=coordinator, processes=processes, process=process, timeout=60.0
    )
    with pytest.raises(InputError, match=r"--(coordinator|process) is"):
        hosts.join(given)


def test_visible_gpus(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_PLATFORMS", "")
    cores = [{}] * len(os.sched_getaffinity(0))
    for value, expected in (
        ("0, 2", [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "2"}]),
        ("1,-1,0", [{"CUDA_VISIBLE_DEVICES": "1"}]),
        ("", cores),
        ("-1", cores),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        assert local.devices() == expected
    monkeypatch.setenv("JAX_PLATFORMS", "cpu,cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert local.devices() == cores

    # Without a driver, nvidia-smi prints text that is not a list of GPUs.
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho NVIDIA-SMI has failed.\necho Install the driver.\nexit 9\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert local.devices() == cores
