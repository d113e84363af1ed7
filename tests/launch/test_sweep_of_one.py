"""A config as a sweep of one point, and the expected hours of a dry run."""

import shlex

import pytest
import small
import yaml

from launch import command
from launch.sweep import __main__ as sweep
from launch.sweep import hours
from launch.sweep.points import load_points

ENGINES = {
    "local": [],
    "slurm": ["--sbatch=--gres=gpu:4 --time=12:00:00"],
    "tpu-vm": ["--zone=us-central1-a", "--accelerator=v5litepod-8"],
    "gke": ["--image=image", "--claim=runs", "--accelerator=h100-4"],
    "skypilot": ["--bucket=gs://runs", "--accelerator=H100:4"],
}
SETTINGS = small.RUN | small.PLAIN | {"data.holdout": 0, "epochs": 2}


@pytest.fixture
def start(tmp_path, capsys):
    """Runs the command; returns its output and its errors."""

    def start(spec, *flags, status=0):
        argv = ["--sweep", str(spec), "--workdir", str(tmp_path / "w"), *flags]
        assert command.run(sweep.main, argv) == status
        return capsys.readouterr()

    return start


@pytest.mark.parametrize("engine", ENGINES)
def test_an_experiment_is_a_sweep_of_one_point(start, tmp_path, engine):
    """Every engine renders one run of the experiment, with the settings of flags."""
    output, _ = start(small.QUICKSTART, "--dry_run", "--on", engine, *ENGINES[engine],
                      "--config.epochs=3")  # fmt: skip
    assert output.count("launch.train") == 1
    assert output.count(str(tmp_path / "w" / "default")) == 1
    assert output.count("--config.epochs=3") == 1
    if engine == "slurm":
        assert "#SBATCH --array=0-0\n" in output and "#SBATCH --gres=gpu:4\n" in output
    if engine in ("gke", "skypilot"):
        assert len(list(yaml.safe_load_all(output))) == 1


def test_an_experiment_with_an_argument():
    path = small.ROOT / "experiments/cvpr2017/table2/densenet_bc_k12_d100.py"
    [point] = load_points(f"{path}:c100+", small.ROOT)
    assert (point.name, point.config.data.name) == ("default", "cifar100")
    assert point.arguments[:4] == ["-m", "launch.train", "--config", f"{path}:c100+"]


@pytest.mark.slow
def test_one_point_runs_to_its_end(start, tmp_path):
    path = tmp_path / "one.py"
    text = small.SWEEP_FILE.format(settings=SETTINGS, points="None")
    path.write_text(text.partition("def get_hyper")[0])
    output, _ = start(path)
    assert "1 point, 1 to run" in output and (tmp_path / "w" / "default" / "result.json").exists()
    output, _ = start(path)
    assert "1 point, 0 to run" in output


def test_a_get_hyper_that_is_no_function(start, tmp_path):
    path = tmp_path / "bad.py"
    text = small.SWEEP_FILE.format(settings=SETTINGS, points="None")
    path.write_text(text.partition("def get_hyper")[0] + "get_hyper = 3")
    _, errors = start(path, status=2)
    assert "get_hyper in" in errors and "is an object of type int, not a function" in errors


@pytest.fixture
def swept(tmp_path, monkeypatch):
    """Returns a sweep over growth rates, without a record of the project."""
    monkeypatch.setattr(hours, "_RECORD", tmp_path / "record")
    path = tmp_path / "sweep_file.py"
    points = 'hyper.sweep("config.model.growth_rate", [4, 8])'
    path.write_text(small.SWEEP_FILE.format(settings=SETTINGS, points=points))
    return path


def test_expected_hours_come_from_a_run_of_the_same_network_and_data(start, swept, tmp_path):
    """The network may have another name, and the run other epochs and another batch size."""
    changes = SETTINGS | {"epochs": 1, "batch_size": 32, "seed": 7}
    changes |= {"model.name": "densenet_bc_k4_d22", "model.growth_rate": None}
    extra = {"train_seconds": 5400.0, "images_per_second": 1234.0}
    small.finish(tmp_path / "w" / "before", 1.0, small.config(changes), extra=extra)
    _, errors = start(swept, "--dry_run")
    title, known, unknown = errors.splitlines()
    assert title == "expected hours:"
    assert known.startswith("growth_rate=4: about 3.00 h on ") and " CPU cores" in known
    assert known.endswith(f"from {tmp_path}/w/before (1,234 images/s in batches of 32)")
    assert unknown.startswith("1 point, such as growth_rate=8: unknown, because no finished run")
    assert "(densenet_c_k8_d22, block_config (1,))" in unknown
    words = shlex.split(unknown.partition("images/s with ")[2])
    assert words[:4] == ["python", "-m", "launch.plan", "--config"]
    assert command.load_config(words[4], words[5:-2]).model.growth_rate == 8


def test_other_data_give_no_expected_hours(start, swept, tmp_path):
    config = small.config(SETTINGS | {"data.holdout": 37})
    small.finish(tmp_path / "record" / "before", 1.0, config)
    _, errors = start(swept, "--dry_run")
    assert "2 points, such as growth_rate=4: unknown" in errors
