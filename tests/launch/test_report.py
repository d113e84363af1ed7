"""Tests the tables of `python -m launch.report`: measured numbers beside published ones."""

import csv
import shutil

import numpy as np
import pytest
import scipy.stats
import small

from experiments import published
from launch import command
from launch.report import __main__ as report

BC = "experiments/cvpr2017/table2/densenet_bc_k12_d100.py:c10+"
TABLE3 = "experiments/cvpr2017/table3/densenet121.py"


def finish(directory, error, spec=BC, **changes):
    small.finish(directory, error, command.load_config(str(small.ROOT / spec)), **changes)


@pytest.fixture
def runs(tmp_path):
    directory = tmp_path / "runs"
    directory.mkdir()
    return directory


@pytest.fixture
def run_report(runs, tmp_path, capsys):
    """Reports `runs`; returns the text of the table and its lines in the CSV by cell."""

    def run(name="table2", key=lambda line: (line["row"], line["column"])):
        out = tmp_path / "report"
        assert command.run(report.main, [name, "--runs", str(runs), "--out", str(out)]) == 0
        text = (out / f"{name}.md").read_text()
        assert text in capsys.readouterr().out
        for suffix, mark in (("png", b"\x89PNG\r\n\x1a\n"), ("svg", b"<?xml")):
            picture = (out / f"{name}.{suffix}").read_bytes()
            assert picture.startswith(mark) and len(picture) > 10_000
        with (out / f"{name}.csv").open() as file:
            return text, {key(line): line for line in csv.DictReader(file)}

    return run


def test_without_runs_no_cell_is_measured(run_report):
    text, cells = run_report()
    expected = {
        (row, column): error
        for row, facts in published.TABLE2.items()
        for column, error in facts.errors.items()
    }
    assert {cell: float(line["published"]) for cell, line in cells.items()} == expected
    assert text.count("not run") == len(expected) == 75
    assert all(line["mean"] == "" and line["seeds"] == "0" for line in cells.values())
    assert "Other runs" not in text


def test_suspicious_cells_are_marked_and_explained(run_report):
    text, cells = run_report()
    for (row, column), note in published.SUSPICIOUS.items():
        assert note in text
        if column == "params":
            assert cells[row, "c10+"]["params_published"].endswith("†")
        else:
            assert "†" in cells[row, column]["mark"]
    assert cells["preresnet164", "c100"]["mark"] == "*"
    marked = sum("†" in line["mark"] for line in cells.values())
    assert marked == sum(column != "params" for _, column in published.SUSPICIOUS)


def test_seeds_are_averaged(runs, run_report):
    for seed, error in enumerate((4.40, 4.60, 4.80)):
        finish(runs / f"seed{seed}", error, seed=seed)
    text, cells = run_report()
    assert "| 4.60 ± 0.20 (+0.09, 3 seeds) |" in text
    line = cells["densenet_bc_k12_d100", "c10+"]
    assert (float(line["mean"]), int(line["seeds"])) == (pytest.approx(4.6), 3)
    assert float(line["std"]) == pytest.approx(0.2)
    assert float(line["difference"]) == pytest.approx(0.09)
    assert sum(line["mean"] != "" for line in cells.values()) == 1


def test_one_seed_has_no_deviation(runs, run_report):
    finish(runs / "deep" / "down", 4.5)
    assert "4.50 (-0.01, 1 seed)" in run_report()[0]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"data.directory": "elsewhere"}, marks=pytest.mark.slow),
        pytest.param({"model.remat": "layer"}, marks=pytest.mark.slow),
        {"eval_batch_size": 100, "eval_every_epochs": 10, "checkpoint_every_epochs": 50},
        pytest.param({"steps_per_dispatch": 7, "deterministic": True}, marks=pytest.mark.slow),
    ],
)
def test_runs_of_a_protocol_may_differ_in_other_keys(runs, run_report, changes):
    finish(runs / "run", 4.5, **changes)
    assert "4.50 (-0.01, 1 seed)" in run_report()[0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"epochs": 3}, "epochs 3 instead of 300"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ({"data.name": "fashion_mnist"}, "data.name fashion_mnist instead of cifar10"),
                ({"data.examples": 10_000}, "data.examples 10000 instead of 0"),
                ({"dtype": "bfloat16"}, "dtype bfloat16 instead of float32"),
                (
                    {"model.growth_rate": 4},
                    "network densenet_bc_k4_d100 instead of densenet_bc_k12_d100",
                ),
            )
        ),
        ({"official": False}, "not the official data"),
    ],
)
def test_runs_of_other_protocols_are_no_reproductions(runs, run_report, changes, reason):
    finish(runs / "run", 4.5, **changes)
    text, cells = run_report()
    assert all(line["mean"] == "" for line in cells.values())
    table, others = text.split("## Other runs")
    assert "4.50" not in table
    assert "no reproductions" in others and reason in others and str(runs / "run") in others


def test_all_differences_are_listed(runs, run_report, tmp_path):
    """A list that is too long for a cell stands below the table; the CSV has every list."""
    few = {"epochs": 3, "momentum": 0.8}
    many = few | {"data.name": "fashion_mnist", "data.examples": 10_000, "dtype": "bfloat16"}
    many |= {"batch_size": 32, "learning_rate": 0.3, "weight_decay": 0.1, "model.growth_rate": 4}
    finish(runs / "few", 4.5, **few)
    for name in ("many", "same"):
        finish(runs / name, 9.0, **many)
    text, _ = run_report()
    line, *below = [line for line in text.splitlines() if str(runs / "many") in line]
    assert line.rstrip(" |").endswith("9 differences, listed below")
    assert "densenet_bc_k4_d100 " in line
    listed = (
        "data.name fashion_mnist instead of cifar10; "
        "network densenet_bc_k4_d100 instead of densenet_bc_k12_d100; epochs 3 instead of 300; "
        "batch_size 32 instead of 64; "
    )
    assert len(below) == 1 and f"* `{runs}/many`, `{runs}/same`: {listed}" in below[0]
    with (tmp_path / "report" / "table2-other-runs.csv").open() as file:
        found = {row["run"]: row["nearest protocol"].split("; ") for row in csv.DictReader(file)}
    assert found[str(runs / "few")] == ["epochs 3 instead of 300", "momentum 0.8 instead of 0.9"]
    assert len(found[str(runs / "many")]) == 9


def test_a_network_may_have_another_name(runs, run_report):
    changes = {"model.name": "densenet_bc_k8_d22", "model.depth": 100, "model.growth_rate": 12}
    finish(runs / "run", 4.5, **changes)
    assert "4.50 (-0.01, 1 seed)" in run_report()[0]


def test_evaluation_interval_matters_if_the_best_epoch_is_reported(runs, run_report):
    spec = "experiments/cvpr2017/table2/resnet110_huang.py:c10"
    finish(runs / "run", 13.0, spec, eval_every_epochs=10)
    assert "eval_every_epochs 10 instead of 1" in run_report()[0]


def test_repeated_seed_counts_once(runs, run_report):
    finish(runs / "a", 4.5)
    finish(runs / "b", 9.9)
    text, _ = run_report()
    assert "4.50 (-0.01, 1 seed)" in text and "seed 0 a second time" in text


def test_real_run_on_other_data_is_no_reproduction(finished_run, runs, run_report):
    for name in ("finished", "interrupted"):
        shutil.copytree(finished_run, runs / name, ignore=shutil.ignore_patterns("checkpoints"))
    (runs / "interrupted" / "result.json").unlink()
    text, cells = run_report()
    assert all(line["mean"] == "" for line in cells.values())
    assert "data.name digits instead of cifar10" in text
    assert str(runs / "finished") in text and str(runs / "interrupted") not in text


def test_table3(runs, run_report):
    finish(runs / "run", 25.0, TABLE3)
    text, cells = run_report("table3")
    assert "25.00 (-0.02, 1 seed)" in text and text.count("not run") == 19
    assert len(cells) == 20
    assert "DenseNet-161 is only in these editions: CVPR." in text


@pytest.mark.slow
def test_sweep(runs, run_report):
    for growth_rate, compression, seed, error in (
        (12, 0.5, 0, 5.0),
        (12, 0.5, 1, 6.0),
        (12, 1.0, 0, 7.0),
        (24, 0.5, 0, 4.0),
    ):
        name = f"{growth_rate}-{compression}-{seed}"
        changes = {"model.growth_rate": growth_rate, "model.compression": compression, "seed": seed}
        finish(runs / name, error, params=growth_rate * 1000, **changes)
    text, _ = run_report("sweep", key=lambda line: len(line))
    assert text.startswith("# Sweep over compression and growth rate\n")
    rows = [[v.strip() for v in line.split("|")[1:-1]] for line in text.splitlines()[2:]]
    assert rows[0][:3] == ["network", "compression", "growth rate"]
    # The paper's network has 287.9 million multiply-adds.
    assert rows[2] == ["densenet_bc_k12_d100", "0.5", "12", "12,000", "287.9", "5.50 ± 0.71", "2"]
    assert [row[:3] + row[5:] for row in rows[3:]] == [
        ["densenet_bc_k24_d100", "0.5", "24", "4.00", "1"],
        ["densenet_b_k12_d100", "1.0", "12", "7.00", "1"],
    ]


def test_folds_give_one_row_with_an_interval(runs, run_report):
    """Seeds of a fold are averaged first. Student's t is 4.302653 with two degrees of freedom."""
    errors = {(0, 0): (3.0, 5.0), (0, 1): (5.0, 7.0), (1, 0): (2.0, 5.0), (2, 0): (9.0, 8.0)}
    for (fold, seed), (validation, test) in errors.items():
        folds = {"data.folds": 4, "data.fold": fold, "seed": seed}
        finish(runs / f"{fold}-{seed}", test, extra={"validation_error": validation}, **folds)
    text, lines = run_report("sweep", key=lambda line: line["network"])
    assert text.startswith("# Sweep over seed and fold\n")
    [row] = [[v.strip() for v in line.split("|")[1:-1]] for line in text.splitlines()[4:]]
    # The errors of the folds are 4, 2 and 9 in validation, and 6, 5 and 8 in the test.
    assert row[3:] == ["5.00 (-3.96 to 13.96)", "6.33 (2.54 to 10.13)", "3 of 4", "2"]
    [line] = lines.values()
    for part, found in (("validation_", (4, 2, 9)), ("", (6, 5, 8))):
        low, high = scipy.stats.t.interval(0.95, 2, np.mean(found), scipy.stats.sem(found))
        names = ("low", "mean", "high", "std")
        expected = (low, np.mean(found), high, np.std(found, ddof=1))
        assert [float(line[part + name]) for name in names] == pytest.approx(expected)
    assert (line["folds_done"], line["folds"], line["seeds"]) == ("3", "4", "2")


def test_one_fold_has_no_interval(runs, run_report):
    for compression in (0.5, 1.0):
        changes = {"model.compression": compression, "data.folds": 2 * (compression == 1.0)}
        finish(runs / str(compression), 4.0, extra={"validation_error": 3.0}, **changes)
    text, _ = run_report("sweep", key=lambda line: len(line))
    rows = [[v.strip() for v in line.split("|")[1:-1]] for line in text.splitlines()[4:]]
    assert [row[-4:] for row in rows] == [
        ["none", "4.00", "none", "1"],
        ["3.00", "4.00", "1 of 2", "1"],
    ]


@pytest.mark.parametrize(
    ("changes", "title"),
    [
        pytest.param({}, "Runs of one setting", marks=pytest.mark.slow),
        pytest.param({"seed": 1}, "Sweep over seed", marks=pytest.mark.slow),
        ({"seed": 1, "model.remat": "layer"}, "Sweep over seed and remat"),
        ({"seed": 1, "model.growth_rate": 24}, "Sweep over growth rate"),
    ],
)
def test_title_of_a_sweep_names_its_keys(runs, run_report, changes, title):
    finish(runs / "a", 5.0)
    finish(runs / "b", 6.0, **changes)
    assert run_report("sweep", key=lambda line: len(line))[0].startswith(f"# {title}\n")


def test_sweep_without_finished_runs_is_an_error(runs, tmp_path, capsys):
    argv = ["sweep", "--runs", str(runs), "--out", str(tmp_path / "out")]
    assert command.run(report.main, argv) == 2
    assert "no run is finished yet" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["missing", "out"])
def test_mistakes_are_one_line_errors(runs, tmp_path, capsys, damage):
    out = tmp_path / "out"
    if damage == "missing":
        runs.rmdir()
    else:
        out.write_text("precious")
    argv = ["table2", "--runs", str(runs), "--out", str(out)]
    assert command.run(report.main, argv) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("error: ")
    assert str({"missing": runs, "out": out}[damage]) in error
    assert not out.is_dir() and (damage != "out" or out.read_text() == "precious")
