"""The published snapshot ensembles have configs, and `launch.report snapshots` shows them."""

import csv

import pytest
import small

from densenet_jax.analysis.counts import count_macs, count_params
from densenet_jax.errors import InputError
from densenet_jax.models.catalog import model_config
from densenet_jax.train.config import check_config, flatten
from experiments import published
from launch import command
from launch.report import __main__ as report

CONFIGS = small.ROOT / "experiments" / "snapshots"
CELLS = [(model, column) for model, row in published.SNAPSHOTS.items() for column in row]


def load(model, column):
    return command.load_config(f"{CONFIGS}/{model}.py:{column}")


def test_every_published_ensemble_has_a_config():
    assert {path.stem for path in CONFIGS.glob("*.py")} == set(published.SNAPSHOTS)
    with pytest.raises(InputError, match="published for 'svhn': choose one of c10\\+, c100\\+"):
        load("densenet_k24_d100", "svhn")


@pytest.mark.parametrize(("model", "column"), CELLS)
def test_configs_differ_from_table_2_in_the_learning_rate_alone(model, column):
    config = load(model, column)
    check_config(config)
    ours = flatten(config)
    theirs = flatten(command.load_config(f"{CONFIGS.parent}/cvpr2017/table2/{model}.py:{column}"))
    assert {key: ours[key] for key in ours if ours[key] != theirs[key]} == {
        "learning_rate": 0.2,
        "learning_rate_schedule": "cosine",
        "learning_rate_cycles": 6,
    }


@pytest.mark.slow
@pytest.mark.parametrize("model", published.SNAPSHOTS)
def test_docstrings_have_the_published_errors_the_size_and_the_cost(model):
    text = (CONFIGS / f"{model}.py").read_text()
    errors = [f"{column} {error:.2f}" for column, error in published.SNAPSHOTS[model].items()]
    assert f"by column: {', '.join(errors)}." in text
    network = model_config(model, num_classes=10)
    assert f"{count_params(network):,} parameters" in text
    flop = 6 * count_macs(network, 32, 32) * 300 * 50_000
    assert f"{flop:.1e} FLOP".replace("e+", "e") in text


def test_the_report_has_the_last_snapshot_and_the_ensemble(tmp_path, capsys):
    for seed in (0, 1):
        changes = {"seed": seed, "extra": {"ensemble_test_error": 3.4 + 0.2 * seed}}
        made = load("densenet_k24_d100", "c10+")
        small.finish(tmp_path / "runs" / str(seed), 4.0, made, **changes)
    extra = {"ensemble_test_error": 9.25}
    changes = {"epochs": 12, "learning_rate_cycles": 4, "extra": extra}
    small.finish(tmp_path / "runs" / "short", 9.5, load("densenet_k24_d100", "c10+"), **changes)
    small.finish(tmp_path / "runs" / "plain", 5.0, small.config())  # Has no ensemble.
    argv = ["snapshots", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "report")]
    assert command.run(report.main, argv) == 0
    output = capsys.readouterr().out
    text = (tmp_path / "report" / "snapshots.md").read_text()
    assert text in output and "1 of 2 ensembles measured, 1 other run, 0 unf" in output
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert [
        "`densenet_k24_d100`",
        "c10+",
        "3.44",
        "4.00 ± 0.00",
        "3.50 ± 0.14 (+0.06, 2 seeds)",
    ] in rows
    assert ["`densenet_k24_d100`", "c100+", "17.41", "not run", "not run"] in rows
    [short] = [row for row in rows if row and row[0].endswith("short")]
    assert short[3:7] == ["4", "12", "9.50", "9.25"]
    assert "epochs 12 instead of 300; learning_rate_cycles 4 instead of 6" in short[7]
    with (tmp_path / "report" / "snapshots.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (float(first["ensemble_mean"]), first["seeds"]) == (pytest.approx(3.5), "2")
    assert (second["published"], second["last_mean"], second["seeds"]) == ("17.41", "", "0")


def test_an_empty_report_shows_the_published_errors(tmp_path, capsys):
    assert command.run(report.main, ["snapshots", "--out", str(tmp_path)]) == 0
    assert "0 of 2 ensembles measured, 0 other runs" in capsys.readouterr().out
    assert "17.41" in (tmp_path / "snapshots.md").read_text()
