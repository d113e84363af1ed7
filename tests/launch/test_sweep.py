"""`python -m launch.sweep`: points, names, states, local runs and rendered scripts."""

import os
import re
import shlex
import signal
import subprocess
import threading
import time

import pytest
import small
import yaml

from densenet_jax.errors import InputError
from densenet_jax.train.record import RunDirectory
from launch import command
from launch.sweep import __main__ as sweep
from launch.sweep import hyper
from launch.sweep.points import load_points

SETTINGS = small.RUN | small.PLAIN | {"data.holdout": 0, "epochs": 2}
SEEDS = 'hyper.sweep("config.seed", [0, 1, 2])'


@pytest.fixture
def write(tmp_path):
    """Writes a sweep file; returns its path."""

    def write(points, **changes):
        path = tmp_path / "sweep_file.py"
        path.write_text(small.SWEEP_FILE.format(settings=SETTINGS | changes, points=points))
        return str(path)

    return write


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Runs the command; returns its exit status."""
    monkeypatch.setenv("PYTHONPATH", str(small.ROOT))

    def start(spec, *flags):
        argv = ["--sweep", spec, "--workdir", str(tmp_path / "sweep"), *flags]
        return command.run(sweep.main, argv)

    return start


def test_hyper_functions():
    a, b = hyper.sweep("config.a", [1, 2]), hyper.sweep("config.b", "xy")
    assert hyper.product([a, b]) == [
        {"config.a": 1, "config.b": "x"},
        {"config.a": 1, "config.b": "y"},
        {"config.a": 2, "config.b": "x"},
        {"config.a": 2, "config.b": "y"},
    ]
    assert hyper.zipit([a, b]) == [
        {"config.a": 1, "config.b": "x"},
        {"config.a": 2, "config.b": "y"},
    ]
    assert hyper.chainit([a, b]) == [*a, *b]
    with pytest.raises(InputError, match=r"same length, not \[2, 1\]"):
        hyper.zipit([a, b[:1]])
    with pytest.raises(InputError, match=r"config\.a twice"):
        hyper.product([a, a])


def test_names_hold_the_settings_that_differ(write, tmp_path):
    points = """hyper.product([
        hyper.sweep("config.model.growth_rate", [4, 8]),
        hyper.sweep("config.model.block_config", [(1,), (1, 2)]),
        hyper.sweep("config.seed", [3])])"""
    found = load_points(write(points), tmp_path)
    assert [point.name for point in found] == [
        "growth_rate=4_block_config=1", "growth_rate=4_block_config=1-2",
        "growth_rate=8_block_config=1", "growth_rate=8_block_config=1-2",
    ]  # fmt: skip
    assert found[3].config.model.block_config == (1, 2) and found[3].config.seed == 3


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (
            'hyper.sweep("config.model.growthrate", [4])',
            "point growthrate=4: .*did you mean 'model.growth_rate'",
        ),
        ('hyper.sweep("config.model.compression", [0.5, 0])', "point compression=0: compression"),
        ('hyper.sweep("config.seed", [1, 1])', "2 points of the sweep are named seed=1"),
        ('hyper.sweep("seed", [1])', "keys of a config begin with 'config.'"),
        ("[]", "defines no points"),
    ],
)
def test_bad_sweeps_are_refused_before_anything_starts(
    write, start, tmp_path, capsys, points, message
):
    assert start(write(points)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert not (tmp_path / "sweep").exists()


def test_settings_for_all_points(write, start, capsys):
    """Other flags set config keys for every point, or are errors."""
    spec = write(SEEDS)
    assert start(spec, "--dry_run", "--config.epochs=7") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all("--config.epochs=7" in line for line in lines)
    for flag, message in (
        ("--config.epoch=7", "'epoch'"),
        ("--extra=1", "Unknown command line flag"),
    ):
        assert start(spec, "--dry_run", flag) == 2
        assert message in capsys.readouterr().err


def states(spec, folder):
    return {point.name: point.state() for point in load_points(spec, folder / "sweep")}


@pytest.mark.slow
def test_a_stopped_sweep_stops_its_points(write, tmp_path):
    spec, folder = write(SEEDS, epochs=100_000), tmp_path / "sweep"
    argv = ("-m", "launch.sweep", "--sweep", spec, "--workdir", folder, "--parallel", "1")
    process = small.start(*argv)
    (point, *_) = load_points(spec, folder)
    while not RunDirectory(point.workdir).metrics():
        time.sleep(0.1)
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75
    assert errors == (
        "received SIGTERM; stopped 1 running point. Run the same command again to resume\n"
    )
    expected = {"seed=0": "interrupted", "seed=1": "waiting", "seed=2": "waiting"}
    assert states(spec, tmp_path) == expected
    assert point.exit_status() == 75 and "saved step" in "".join(point.last_lines(3))


@pytest.mark.slow
def test_a_sweep_from_its_start_to_its_end(write, start, tmp_path, capsys):
    """One point is killed. The next call finishes it and does not touch the other point.

    Both points train alike, so that the other point has the result of an uninterrupted run.
    """
    spec = write('hyper.sweep("config.checkpoint_every_epochs", [3, 4])', epochs=15)
    victim = load_points(spec, tmp_path / "sweep")[1]

    def kill():
        until = time.monotonic() + 120
        while not RunDirectory(victim.workdir).metrics() and time.monotonic() < until:
            time.sleep(0.01)
        found = subprocess.run(["pgrep", "-f", str(victim.workdir)], capture_output=True, text=True)
        os.kill(int(found.stdout.split()[0]), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    assert start(spec, "--parallel", "2") == 0
    killer.join()
    names = ["checkpoint_every_epochs=3", "checkpoint_every_epochs=4"]
    assert states(spec, tmp_path) == dict(zip(names, ["finished", "interrupted"], strict=True))
    assert victim.exit_status() == -signal.SIGKILL
    uninterrupted = tmp_path / "sweep" / names[0]
    before = small.snapshot(uninterrupted)
    capsys.readouterr()

    assert start(spec) == 0
    output = capsys.readouterr().out
    assert "2 points, 1 to run" in output
    assert "# Sweep over" in output
    picture = (tmp_path / "sweep" / "report" / "sweep.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000
    assert set(states(spec, tmp_path).values()) == {"finished"}
    assert small.snapshot(uninterrupted) == before
    metrics = [(path / "metrics.jsonl").read_bytes() for path in (victim.workdir, uninterrupted)]
    assert metrics[0] == metrics[1]

    everything = small.snapshot(tmp_path / "sweep")
    assert start(spec) == 0
    assert "2 points, 0 to run" in capsys.readouterr().out
    assert small.snapshot(tmp_path / "sweep") == everything

    assert start(spec, "--status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        [name, "finished", "15/15"] for name in names
    ]


@pytest.mark.slow
def test_failed_points_are_reported_and_rerun_only_with_retry(write, start, tmp_path, capsys):
    spec = write('hyper.sweep("config.learning_rate", [0.1, 1e30])')
    assert start(spec) == 4
    error = capsys.readouterr().err
    assert "learning_rate=1e-30" not in error and "failed with status 4" in error
    assert "the training loss is" in error and "learning_rate=1e+30.log" in error
    assert states(spec, tmp_path) == {
        "learning_rate=0.1": "finished",
        "learning_rate=1e+30": "failed",
    }
    assert start(spec) == 4
    assert "2 points, 0 to run" in capsys.readouterr().out
    assert start(spec, "--retry") == 4
    assert "2 points, 1 to run" in capsys.readouterr().out


ODD = '/data/it\'s a "folder", $HOME; (1, 2)'
ENGINES = {
    "local": [],
    "slurm": ["--sbatch=--gres=gpu:1 --time=4:00:00", "--nodes=2"],
    "tpu-vm": ["--zone=us-central1-a", "--accelerator=v5litepod-8", "--spot"],
    "gke": ["--image=image", "--claim=runs", "--accelerator=v5e-16"],
    "skypilot": ["--bucket=gs://runs", "--accelerator=H100:8"],
}


@pytest.fixture
def rendered(write, start, capsys):
    """Renders two points whose settings have special characters of shells and YAML."""
    spec = write(f"""hyper.product([hyper.sweep("config.model.block_config", [(1,), (1, 2)]),
        hyper.sweep("config.data.directory", [{ODD!r}])])""")

    def render(engine, *flags):
        status = start(spec, "--on", engine, "--dry_run", *ENGINES[engine], *flags)
        assert status == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return render


@pytest.fixture
def arguments(tmp_path):
    """Runs shell text in which tools such as `python` and `srun` only record their arguments."""
    tools = tmp_path / "tools"
    tools.mkdir()
    recorder = '#!/bin/bash\nprintf "%s\\0" "${0##*/}" "$@" >> "$OUT"; printf "\\n\\0" >> "$OUT"\n'
    for name in ("python", "python3", "srun", "pip", "gcloud", "cd"):
        (tools / name).write_text(recorder)
        (tools / name).chmod(0o755)

    def run(text, **environment):
        record = tmp_path / "record"
        record.unlink(missing_ok=True)
        path = f"{tools}:{os.environ['PATH']}"
        env = {"PATH": path, "OUT": str(record), "HOME": "/nowhere", **environment}
        subprocess.run(["bash", "-c", text], env=env, check=False, timeout=60, cwd=tmp_path)
        calls = record.read_text().split("\n\0")[:-1]
        return [call.split("\0")[:-1] for call in calls]

    return run


def assert_arguments(call, block_config):
    at = call.index("launch.train")
    rest = dict(item.split("=", 1) for item in call[at:] if item.startswith("--config."))
    assert rest == {
        "--config.model.block_config": str(block_config),
        "--config.data.directory": ODD,
    }


def assert_labels(labels):
    for label, block_config in zip(labels, ("1", "1-2"), strict=True):
        assert re.fullmatch(f"sweep-block-config-{block_config}-[0-9a-f]{{8}}", label)


def test_local_commands(rendered):
    for line, block_config in zip(rendered("local").splitlines(), [(1,), (1, 2)], strict=True):
        assert_arguments(shlex.split(line), block_config)


def test_slurm_script(rendered, arguments):
    text = rendered("slurm")
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    directives = [line for line in text.splitlines() if line.startswith("#SBATCH")]
    for wanted in ("--array=0-1", "--nodes=2", "--gres=gpu:1", "--time=4:00:00", "--requeue"):
        assert f"#SBATCH {wanted}" in directives
    folder = shlex.split(next(line for line in text.splitlines() if line.startswith("logs=")))
    os.makedirs(folder[0].removeprefix("logs="))  # noqa: PTH103
    [call] = arguments(text, SLURM_ARRAY_TASK_ID="1")
    assert call[0] == "srun"
    assert_arguments(call, (1, 2))


def test_tpu_vm_script(rendered, arguments):
    text = rendered("tpu-vm")
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    assert "--accelerator-type=v5litepod-8" in text and "--spot" in text
    points = [shlex.split(line) for line in text.splitlines() if line.startswith("point ")]
    assert_labels([point[1] for point in points])
    for point, block_config in zip(points, [(1,), (1, 2)], strict=True):
        calls = arguments(point[3].replace("cd densenet_jax", "true"))
        assert [call[0] for call in calls] == ["pip", "python3"]
        assert_arguments(calls[1], block_config)


def test_job_sets(rendered, arguments):
    """Manifests follow JobSet v1alpha2, and use topologies that GKE has."""
    found = list(yaml.safe_load_all(rendered("gke")))
    assert_labels([one["metadata"]["name"] for one in found])
    for one, block_config in zip(found, [(1,), (1, 2)], strict=True):
        assert (one["apiVersion"], one["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
        [replicated] = one["spec"]["replicatedJobs"]
        job = replicated["template"]["spec"]
        assert job["parallelism"] == job["completions"] == 4
        assert job["completionMode"] == "Indexed"
        pod = job["template"]["spec"]
        assert pod["restartPolicy"] == "Never"
        assert pod["nodeSelector"] == {
            "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
            "cloud.google.com/gke-tpu-topology": "4x4",
        }
        [container] = pod["containers"]
        assert container["resources"]["limits"] == {"google.com/tpu": 4}
        shell, flag, text = container["command"]
        assert (shell, flag) == ("bash", "-c")
        [call] = arguments(text)
        assert_arguments(call, block_config)


def test_job_sets_of_gpus_have_the_address_of_the_first_host(rendered, arguments):
    text = rendered("gke", "--accelerator=h100-8", "--nodes=2")
    one = next(iter(yaml.safe_load_all(text)))
    [container] = one["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"][
        "containers"
    ]
    [call] = arguments(container["command"][2], JOB_COMPLETION_INDEX="1")
    name = one["metadata"]["name"]
    assert call[-3:] == [
        f"--coordinator={name}-worker-0-0.{name}:8476", "--processes=2", "--process=1"
    ]  # fmt: skip


def test_skypilot_tasks(rendered, arguments):
    for flags, hosts in (((), []), (("--nodes=2",), ["10.0.0.1:8476", "2", "1"])):
        found = list(yaml.safe_load_all(rendered("skypilot", *flags)))
        for one, block_config in zip(found, [(1,), (1, 2)], strict=True):
            assert one["name"].startswith("sweep-block-config-1-")
            assert one["resources"] == {"accelerators": "H100:8", "use_spot": False}
            [call] = arguments(
                one["run"],
                SKYPILOT_NODE_IPS="10.0.0.1\n10.0.0.2",
                SKYPILOT_NUM_NODES="2",
                SKYPILOT_NODE_RANK="1",
            )
            assert_arguments(call, block_config)
            given = [item.split("=")[1] for item in call if item.startswith(("--coord", "--proc"))]
            assert given == hosts


def test_skypilot_accepts_the_tasks(rendered):
    sky = pytest.importorskip("sky")
    for one in yaml.safe_load_all(rendered("skypilot")):
        sky.Task.from_yaml_config(one)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--on=tpu-vm"], "--on tpu-vm needs --zone and --accelerator"),
        (["--on=gke"], "--on gke needs --image, --claim and --accelerator"),
        (["--on=gke", "--image=i", "--claim=c", "--accelerator=v5e-7"], "GKE has no accelerator"),
        (["--on=skypilot"], "--on skypilot needs --bucket and --accelerator"),
    ],
)
def test_missing_flags_of_an_engine(write, start, tmp_path, capsys, flags, message):
    assert start(write(SEEDS), *flags) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("flag", ["--parallel=-1", "--nodes=0", "--tasks_per_node=0"])
def test_numbers_below_their_minimum(write, start, capsys, flag):
    assert start(write(SEEDS), flag) == 2
    assert "it must be at least" in capsys.readouterr().err


def test_tools_that_are_not_installed(write, start, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    for engine in ("slurm", "tpu-vm", "gke", "skypilot"):
        assert start(write(SEEDS), "--on", engine, *ENGINES[engine]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: there is no ") and error.count("\n") == 1


def test_submitted_points_are_not_submitted_twice(write, tmp_path):
    [point, *_] = load_points(write(SEEDS), tmp_path / "sweep")
    point.note_submitted()
    assert point.state() == "submitted"
    point.note_started()
    assert point.state() == "waiting"
