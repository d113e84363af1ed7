"""Tests `python -m launch.report results`: the record, and its table in the README."""

import json
import re

import pytest
import small

import densenet_jax as dj
from densenet_jax.errors import InputError
from densenet_jax.train.config import check_config
from launch import command
from launch.report import __main__ as launch_report
from launch.report import results
from launch.report.runs import find_runs, hardware

RECORD = small.ROOT / "experiments" / "results"
FASHION_MNIST = small.ROOT / "experiments" / "fashion_mnist"


def stored():
    return find_runs(RECORD)[0]


def test_the_readme_has_the_table_of_the_record():
    readme = RECORD / "README.md"
    table = results.markdown(results.records(stored(), RECORD))
    assert results.replaced(readme.read_text(), table, readme) == readme.read_text()


@pytest.mark.parametrize("path", [run.path for run in stored()], ids=lambda path: path.name)
def test_recorded_run_can_be_repeated(path):
    """A record is complete, small, accepted by --config, and without absolute paths."""
    config = command.load_config(str(path))
    check_config(config)
    stored = {"config.json", "environment.json", "metrics.jsonl", "result.json"}
    if (path / "model.safetensors").exists():
        stored |= {"model.json", "model.safetensors", "README.md"}
        assert (path / "model.safetensors").stat().st_size < 1_000_000
    assert {file.name for file in path.iterdir()} == stored
    files = {name: (path / name).read_text() for name in stored - {"model.safetensors"}}
    assert sum(map(len, files.values())) < 50_000
    last = json.loads(files["metrics.jsonl"].splitlines()[-1])
    assert last["epoch"] == config.epochs
    assert last["test_error"] == json.loads(files["result.json"])["test_error"]
    environment = json.loads(files["environment.json"])
    assert "dirty" not in environment["git_revision"]
    assert not any(argument.split("=")[-1].startswith("/") for argument in environment["command"])


def test_hardware_has_one_form():
    found = {hardware(run) for run in stored()}
    forms = re.compile(r"(up to )?\d+ of \d+ CPU cores?|\d+ x .+")
    assert len(found) > 2 and all(map(forms.fullmatch, found))


def load(name):
    return command.load_config(str(FASHION_MNIST / f"{name}.py"))


@pytest.fixture
def record(tmp_path):
    """Returns a record: two seeds of a published row, a shorter run, and another network."""
    root = tmp_path / "record"
    row = "densenet_bc_k12_d100"
    small.finish(root / "row" / "0", 4.5, load(row), params=768_730)
    small.finish(root / "row" / "1", 4.7, load(row), params=768_730, seed=1)
    small.finish(root / "row" / "short", 9.0, load(row), params=768_730, epochs=3)
    small.finish(root / "other", 12.0, load("densenet_bc_k12_d22"), params=71_254)
    return root


def test_table_of_a_record(record, tmp_path, capsys):
    launch_report.main(["results", "--runs", str(record), "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert (tmp_path / "out" / "results.md").read_text() in printed
    rows = [
        dict(zip(results._COLUMNS, map(str.strip, line.strip("|").split("|")), strict=True))
        for line in printed.splitlines()
        if line.startswith("| ") and "| ---" not in line
    ][1:]
    assert [(row["record"], row["test error %"], row["seeds"]) for row in rows] == [
        ("other", "12.00", "1"),
        ("row", "4.60 ± 0.14", "2"),
        ("row", "9.00", "1"),
    ]
    assert [row["published %"] for row in rows] == ["none", "4.6", "4.6"]
    assert [row["protocol"] for row in rows] == [
        "none published",
        "as published",
        "epochs 3 instead of 300",
    ]
    assert all(re.fullmatch(r"\d+ of \d+ CPU cores", row["hardware"]) for row in rows)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("results.md", "results.csv", "row")
    }
    assert (tmp_path / "out" / "row" / "sweep.png").exists()


def test_readme_is_updated(record, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n")
    flags = ["--runs", str(record), "--out", str(tmp_path / "out"), "--readme", str(readme)]
    launch_report.main(["results", *flags])
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "4.60 ± 0.14" in text
    launch_report.main(["results", *flags])
    assert readme.read_text() == text
    readme.write_text("no markers")
    with pytest.raises(InputError, match="has no markers for the table"):
        launch_report.main(["results", *flags])


def test_default_output_directory(record, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    launch_report.main(["results", "--runs", str(record)])
    assert (tmp_path / "report" / "results.md").exists()
    with pytest.raises(InputError, match="keep needs --out"):
        launch_report.main(["keep", "--runs", str(record)])


def test_run_directory_serves_as_a_config(record):
    again = command.load_config(str(record / "row" / "1"), ["--config.epochs=2"])
    assert (again.model.name, again.seed, again.epochs) == ("densenet_bc_k12_d100", 1, 2)


def test_single_run_as_a_record(record):
    """`root` may be the run directory or its parent."""
    path = record / "other"
    for root in (path, record):
        runs = find_runs(path).finished
        assert [found.directory for found in results.records(runs, root)] == ["other"]


def test_keep_copies_small_files_only(finished_run, tmp_path):
    out = tmp_path / "record" / "small"
    launch_report.main(["keep", "--runs", str(finished_run.parent), "--out", str(out)])
    kept = {path.name: path for path in (out / "run").iterdir()}
    assert kept.keys() == {"config.json", "environment.json", "metrics.jsonl", "result.json"}
    for name in ("config.json", "metrics.jsonl", "result.json"):
        assert kept[name].read_bytes() == (finished_run / name).read_bytes()
    original = json.loads((finished_run / "environment.json").read_text())
    environment = json.loads(kept["environment.json"].read_text())
    assert not any(word.startswith("/") for word in environment["command"])
    assert environment | {"command": None} == original | {"command": None}
    assert command.load_config(str(out / "run")).epochs == 4


def test_keep_with_weights_stores_a_network(finished_run, tmp_path, capsys):
    out = tmp_path / "kept"
    argv = ["keep", "--runs", str(finished_run.parent), "--out", str(out), "--weights"]
    launch_report.main(argv)
    [kept] = out.iterdir()
    assert not (kept / "checkpoints").exists()
    assert (kept / "README.md").read_text().startswith("---\nlicense: mit\n")
    found, expected = dj.load(kept), dj.load(finished_run)
    ours, theirs = dj.weights.to_torch(found), dj.weights.to_torch(expected)
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert found.preprocessing == expected.preprocessing and found.classes == expected.classes
    with pytest.raises(InputError, match="--weights is for keep, not for results"):
        launch_report.main(["results", "--runs", str(finished_run.parent), "--weights"])
