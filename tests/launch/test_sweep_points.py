"""The points of a sweep, for any sweep file and from any directory."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import small
import yaml

from densenet_jax.errors import InputError
from launch import command
from launch.sweep import __main__ as sweep
from launch.sweep.points import ROOT, load_points


@pytest.fixture
def write(tmp_path):
    """Writes a sweep file whose get_hyper has the given body; returns its path."""

    def write(body):
        path = tmp_path / "sweep_file.py"
        text = small.SWEEP_FILE.format(settings=small.RUN, points="None")
        path.write_text(f"import numpy as np\n{text.replace('return None', body)}")
        return path

    return write


@pytest.fixture
def dry_run(tmp_path, capsys):
    """Starts a dry run; returns its output."""

    def dry_run(path, *flags, status=0):
        argv = ["--sweep", str(path), "--workdir", str(tmp_path / "w"), "--dry_run", *flags]
        assert command.run(sweep.main, argv) == status
        assert not (tmp_path / "w").exists()
        output, errors = capsys.readouterr()
        if status:
            assert errors.count("\n") == 1
        else:
            assert errors.startswith("expected hours:\n")
        return output + errors

    return dry_run


def test_numpy_numbers_become_python_numbers(write, tmp_path):
    path = write(
        """return hyper.product([
        hyper.sweep("config.learning_rate", np.array([0.1, 0.01])),
        hyper.sweep("config.learning_rate_drops", [(np.float64(0.5), np.float64(0.75))]),
        hyper.sweep("config.model.block_config", [np.array([1, 2]), [np.int64(1)]]),
        hyper.sweep("config.data.augment", [np.bool_(True)])])"""
    )
    points = load_points(str(path), tmp_path)
    assert points[1].name == "learning_rate=0.1_block_config=1"
    assert points[2].overrides == [
        "--config.learning_rate=0.01",
        "--config.learning_rate_drops=(0.5, 0.75)",
        "--config.model.block_config=(1, 2)",
        "--config.data.augment=True",
    ]
    assert points[2].config.model.block_config == (1, 2) and points[2].config.learning_rate == 0.01


def test_a_generator_gives_points(write, tmp_path):
    path = write('yield {"config.seed": 1}; yield {}')
    assert [point.name for point in load_points(str(path), tmp_path)] == ["seed=1", "default"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('hyper.sweep("config.seed", [1])', r"get_hyper\(\) in FILE returns nothing: end it with"),
        ("return [1, 2]", "returns an object of type int as a point, not a dict"),
        ('return {"config.seed": 1}', "returns an object of type str as a point, not a dict"),
        ("return 3", "returns an object of type int as a point, not a dict"),
        ("return [{1: 2}]", r"the sweep sets 1: keys of a config begin with 'config\.'"),
        ('return [{"config.seed": {}}]', r"sets config\.seed to an object of type dict: use None"),
        ('return [{"config.epochs": None}]', "point epochs=None: epochs is None: give it a value"),
        ("return wrong", "FILE, line 12: NameError: name 'wrong'"),
        ("yield 1 / 0", "FILE, line 12: ZeroDivisionError"),
    ],
)
def test_mistakes_of_get_hyper(write, dry_run, body, message):
    path = write(body)
    error = dry_run(path, status=2)
    assert re.search(message.replace("FILE", re.escape(str(path))), error)


def test_long_names_are_shortened(write, tmp_path):
    path = write('return hyper.sweep("config.data.directory", ["/" + "x" * 300 + y for y in "ab"])')
    first, second = load_points(str(path), tmp_path)
    assert first.name != second.name and first.name[:200] == second.name[:200]
    assert [point.name for point in load_points(str(path), tmp_path)] == [first.name, second.name]
    first.workdir.mkdir()
    first.note_submitted()
    assert first.state() == "submitted"


def test_relative_paths_start_at_the_directory_of_the_command(
    write, dry_run, tmp_path, monkeypatch
):
    write('return hyper.sweep("config.init_from", ["a.pth", "../b.pth", "~/c", "hf:d/e", None])')
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    flags = ["--config.data.directory=data"]
    expected = [
        str(tmp_path / "here" / "a.pth"), str(tmp_path / "b.pth"), "/home/me/c", "hf:d/e", None
    ]  # fmt: skip
    points = load_points("../sweep_file.py", Path("w"), flags)
    assert [point.config.init_from for point in points] == expected
    assert points[0].workdir == tmp_path / "here" / "w" / "init_from=a.pth"
    monkeypatch.chdir("/")
    for point, init_from in zip(points, expected, strict=True):
        config = command.load_config(point.spec, point.overrides)
        assert config == point.config and config.init_from == init_from
        assert config.data.directory == str(tmp_path / "here" / "data")
    monkeypatch.chdir(tmp_path)
    for engine, added in ENGINES.items():
        output = dry_run("sweep_file.py", "--on", engine, *flags, *added)
        assert f"{tmp_path}/sweep_file.py" in output
        assert f"--config.init_from={tmp_path}/a.pth" in output
        assert f"--config.data.directory={tmp_path}/data" in output


def test_arguments_in_a_copy_of_the_project(tmp_path, monkeypatch):
    """Files of the project are relative to the working directory."""
    monkeypatch.chdir(ROOT / "experiments")
    spec = "sweeps/growth_rate_x_compression_quick.py"
    given = ["--config.init_from=../weights/a.pth", "--config.data.directory=../../data"]
    point = load_points(spec, tmp_path, given)[0]
    assert point.arguments[3] == str(ROOT / "experiments" / spec)
    assert f"--config.init_from={ROOT}/weights/a.pth" in point.arguments
    assert point.arguments_in_a_copy[3] == f"experiments/{spec}"
    assert "--config.init_from=weights/a.pth" in point.arguments_in_a_copy
    assert f"--config.data.directory={ROOT.parent}/data" in point.arguments_in_a_copy
    assert str(tmp_path) in " ".join(point.arguments_in_a_copy)


def test_labels(write, tmp_path):
    """Labels are valid in Kubernetes, differ between sweeps, and do not change between calls."""
    path = str(write('return hyper.sweep("config.seed", [0, 1])'))
    labels = []
    for name in ("a/sweep", "b/sweep", "Sweep_" + "x" * 100, "1", "ü", "ü" * 30 + "/a"):
        found = [point.label for point in load_points(path, tmp_path / name)]
        assert found == [point.label for point in load_points(path, tmp_path / "c" / ".." / name)]
        labels += found
    assert len(set(labels)) == len(labels) == 12
    for one in labels:
        assert re.fullmatch("[a-z][a-z0-9-]*[a-z0-9]", one) and len(one) <= 45
    assert re.fullmatch("sweep-seed-0-[0-9a-f]{8}", labels[0])
    assert labels[6].startswith("sweep-1-seed-0-") and labels[8].startswith("seed-0-")
    [alone] = load_points(
        str(write('return hyper.sweep("config.seed", [1])')), tmp_path / "a/sweep"
    )
    assert alone.label == labels[1]


CONTROL = ["\n", "a\nb", "a\rb", "\x7f", "a\x1bb", "\x85"]
ENGINES = {
    "local": [],
    "slurm": [],
    "tpu-vm": ["--zone=z", "--accelerator=v5litepod-8"],
    "gke": ["--image=i", "--claim=c", "--accelerator=v5e-8"],
    "skypilot": ["--bucket=gs://b", "--accelerator=H100:8"],
}


@pytest.mark.parametrize("text", CONTROL)
def test_control_characters_are_refused(write, dry_run, capsys, text):
    path = write('return hyper.sweep("config.seed", [0])')
    flags = ["accelerator", "zone", "runtime", "image", "claim", "queue", "bucket"]
    for flag in (*flags, "config.data.directory"):
        for engine, added in ENGINES.items():
            given = [f"--on={engine}", *added, f"--{flag}=x{text}"]
            error = dry_run(path, *given, status=2)
            assert repr(f"x{text}")[1:-1] in error and "contains control characters" in error
    error = dry_run(path, "--on=slurm", f"--sbatch=--comment='{text}'", status=2)
    assert "--sbatch " in error
    with pytest.raises(SystemExit, match="2"):
        dry_run(path, f"--workdir=x{text}")
    assert f"--workdir: {f'x{text}'!r} contains control characters" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "odd", ["a b", "q'uo\"te", "$HOME`id`$(id)$$", "[x]*?", "p%j%%", "é{y}", "#;&", "b\\s", "a:b"]
)
def test_odd_paths_are_quoted_or_refused(write, capsys, tmp_path, engine, odd):
    path = write('return hyper.sweep("config.seed", [0])')
    (tmp_path / odd).mkdir()
    path = path.rename(tmp_path / odd / "sweep_file.py")
    workdir = tmp_path / odd / "w"
    argv = ["--sweep", str(path), "--workdir", str(workdir), "--on", engine, "--dry_run"]
    status = command.run(sweep.main, [*argv, *ENGINES[engine]])
    output, error = capsys.readouterr()
    refused = {"gke": ":", "skypilot": "$[]{}*?%#;&\\'\" é:"}.get(engine, "")
    assert status == (2 if set(odd) & {*refused, *"*?[\\"} else 0)
    if status:
        assert error.count("\n") == 1 and "workdir" in error
        return
    text = output
    if engine in ("gke", "skypilot"):
        [one] = yaml.safe_load_all(output)
        if engine == "gke":
            pod = one["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
            [container] = pod["containers"]
            assert container["volumeMounts"] == [{"name": "runs", "mountPath": str(workdir)}]
            # Kubernetes replaces $$ by $, and $(NAME) by the variable.
            text = container["command"][2]
            assert not re.search(r"(?<!\$)(\$\$)*\$\(", text)
            text = text.replace("$$", "$")
        else:
            text = one["run"]
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    words = shlex.split(text.replace("#!/bin/bash", ""), comments=True)
    words += [inner for word in words if "launch.train" in word for inner in shlex.split(word)]
    assert str(path) in words and f"{workdir}/seed=0" in words
    if engine == "slurm":
        [line] = [line for line in text.splitlines() if line.startswith("#SBATCH --output")]
        assert (
            shlex.split(line)[1]
            == f"--output={str(workdir).replace('%', '%%')}/logs/slurm-%A_%a.out"
        )


def test_quotes_in_options_of_sbatch(write, dry_run):
    path = write('return hyper.sweep("config.seed", [0])')
    options = """--comment='two "words' --time 4:00:00 -p gpu"""
    lines = dry_run(path, "--on=slurm", f"--sbatch={options}").splitlines()
    directives = [shlex.split(line)[1:] for line in lines if line.startswith("#SBATCH")]
    assert directives[-3:] == [['--comment=two "words'], ["--time", "4:00:00"], ["-p", "gpu"]]
    error = dry_run(path, "--on=slurm", "--sbatch=--comment='two", status=2)
    assert '--sbatch is "--comment=\'two", which has unbalanced quotes' in error


def test_a_file_name_that_is_not_utf8(write, dry_run, tmp_path):
    path = write('return hyper.sweep("config.seed", [0])')
    odd = path.rename(tmp_path / os.fsdecode(b"caf\xe9.py"))
    assert "caf" in dry_run(odd, "--on=slurm")
    with pytest.raises(InputError, match="epochs is 0"):
        load_points(str(odd), tmp_path, ["--config.epochs=0"])
