"""Tests sweeps and reports of many runs: files are read once, and broken runs are left out."""

import collections
import json
import math
import sys
import tracemalloc
from pathlib import Path

import many_runs
import pytest
import small
from cases import slow_except

from densenet_jax.train.config import flatten
from densenet_jax.train.record import RunDirectory
from launch import command, run_files
from launch.report import __main__ as report
from launch.report import runs as report_runs
from launch.sweep import __main__ as sweep

# Paths while a test records them, else None: an audit hook cannot be removed.
_opened: list[str] | None = None


def _note(event: str, arguments: tuple) -> None:
    if _opened is not None and event in ("open", "os.scandir"):
        _opened.append(str(arguments[0]))


@pytest.fixture
def opened():
    """Returns the paths of files and directories that the test opens."""
    global _opened
    if _note not in sys.__dict__.setdefault("_densenet_jax_hooks", []):
        sys.addaudithook(_note)
        sys._densenet_jax_hooks.append(_note)
    _opened = []
    yield _opened
    _opened = None


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Returns a sweep file and the directory of its 16 runs; tests must not change them."""
    return many_runs.write_sweep(tmp_path_factory.mktemp("many"), 16)


def report_command(name: str):
    def build(spec, workdir, out):
        return report.main, [name, "--runs", str(workdir.parent), "--out", str(out)]

    return build


# The main function and the arguments of each command.
COMMANDS = {
    "status": lambda spec, workdir, out: (
        sweep.main,
        ["--sweep", spec, "--workdir", str(workdir), "--status"],
    ),
    **{name: report_command(name) for name in ("table2", "sweep", "results", "fig8")},
}


@pytest.mark.parametrize("name", slow_except(["status", "sweep", "results"], COMMANDS))
def test_each_file_is_read_once(swept, opened, tmp_path, capsys, name):
    main, argv = COMMANDS[name](*swept, tmp_path / "out")
    assert command.run(main, argv) == 0
    assert capsys.readouterr().err == ""
    inside = [path for path in opened if path.startswith(f"{swept[1]}/")]
    assert len(inside) >= 16 * 3
    assert {path: n for path, n in collections.Counter(inside).items() if n > 1} == {}
    assert not any("checkpoints" in path for path in inside)


def test_a_sweep_file_is_read_once(swept, opened, tmp_path, capsys):
    argv = ["--sweep", swept[0], "--workdir", str(tmp_path / "new"), "--dry_run"]
    assert command.run(sweep.main, argv) == 0
    assert capsys.readouterr().out.count("launch.train") == 16
    assert opened.count(swept[0]) == 1


def test_runs_of_one_protocol_are_compared_once(swept, tmp_path, monkeypatch):
    calls = []
    compare = report_runs.differences
    monkeypatch.setattr(report_runs, "differences", lambda *a: calls.append(a) or compare(*a))
    monkeypatch.setattr(RunDirectory, "config", None)
    report.main(["table2", "--runs", str(swept[1].parent), "--out", str(tmp_path)])
    assert len(calls) == 75 * 8  # Cells of the table, and networks of the sweep.


def test_memory_does_not_grow_with_metrics(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps(many_runs.line(epoch, 5.0)) + "\n" for epoch in range(1, 20_001))
    )
    tracemalloc.start()
    try:
        assert sum(1 for _ in run_files.metrics_backwards(tmp_path)) == 20_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1e6 < (tmp_path / "metrics.jsonl").stat().st_size / 2


@pytest.mark.parametrize("block", [1, 2, 7, 50, 2**16])
@pytest.mark.parametrize("end", ["\n", "", '\n{"epoch": 4, "tes', '\n{"epoch": 4}'])
def test_metrics_are_read_from_the_end(tmp_path, monkeypatch, block, end):
    monkeypatch.setattr(run_files, "_BLOCK_BYTES", block)
    lines = [{"step": 1, "epoch": epoch, "test_error": 1 / 3} for epoch in range(1, 4)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + end)
    assert list(run_files.metrics_backwards(tmp_path)) == RunDirectory(tmp_path).metrics()[::-1]


def test_missing_or_empty_metrics(tmp_path):
    assert list(run_files.metrics_backwards(tmp_path)) == []
    (tmp_path / "metrics.jsonl").touch()
    assert list(run_files.metrics_backwards(tmp_path)) == []


RECORDED = sorted((small.ROOT / "experiments" / "results").rglob("config.json"))


def test_flat_configs_equal_those_of_run_directories(tmp_path):
    for path in RECORDED:
        expected = flatten(RunDirectory(path.parent).config())
        found = run_files.flat_config(path.parent)
        assert list(found.items()) == list(expected.items())
    values = json.loads(RECORDED[0].read_text())
    values["learning_rate"], values["later"] = 1, {"key": [1]}
    (tmp_path / "config.json").write_text(json.dumps(values))
    found = run_files.flat_config(tmp_path)
    assert found == flatten(RunDirectory(tmp_path).config())
    assert isinstance(found["learning_rate"], float) and found["later.key"] == (1,)


def damage_nothing(workdir: Path) -> None:
    """Leaves the run as it is."""


def write(name: str, content: bytes):
    def damage(workdir: Path) -> None:
        (workdir / name).write_bytes(content)

    return damage


def empty_directory_with(name: str):
    def damage(workdir: Path) -> None:
        for path in workdir.glob("*.json*"):
            path.unlink()
        (workdir / name).touch()

    return damage


def replace_by_directory(name: str):
    def damage(workdir: Path) -> None:
        (workdir / name).unlink(missing_ok=True)
        (workdir / name).mkdir()

    return damage


def change_epochs(workdir: Path) -> None:
    text = (workdir / "config.json").read_text()
    (workdir / "config.json").write_text(text.replace('"epochs": 20', '"epochs": 7'))


def set_result(**values):
    def damage(workdir: Path) -> None:
        path = workdir / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return damage


NAME = "growth_rate=4_compression=1.0"
# Damage to a run, words of its error message, and whether reports leave the run out.
DAMAGES = {
    "config": (write("config.json", b"\x00" * 100), "config.json is damaged", True),
    "config list": (write("config.json", b"[1]"), "it holds a list, not a JSON object", True),
    "config values": (write("config.json", b'{"epochs": "many"}'), "config.json is damaged", True),
    "config directory": (replace_by_directory("config.json"), "config.json is a directory", True),
    "result": (write("result.json", b"{"), "result.json is damaged", True),
    "result values": (write("result.json", b"{}"), "(model is None)", True),
    "result infinite": (set_result(test_error=math.inf), "(test_error is inf)", True),
    "result nan": (set_result(test_error=math.nan), "(test_error is nan)", True),
    "result too large": (set_result(epochs=10**400), "(epochs is 1000", True),
    "deep": (write("result.json", b"[" * 100_000), "result.json is damaged", True),
    "metrics": (write("metrics.jsonl", b"\xff\xfe\n"), "metrics.jsonl is damaged", False),
    "metrics nan": (
        write("metrics.jsonl", b'{"epoch": 1, "test_error": NaN}\n'),
        "test_error is nan",
        False,
    ),
    "metrics values": (write("metrics.jsonl", b'{"a": 1}\n'), "a line without an epoch", False),
    "other files": (empty_directory_with("notes.txt"), "holds other files", False),
    "other config": (change_epochs, "belongs to a run of another config: epochs (7", False),
    "exit": (replace_by_directory(f"../logs/{NAME}.exit"), ".exit is a directory", False),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_broken_run_does_not_stop_the_others(tmp_path, capsys, kind):
    damage, words, is_left_out = DAMAGES[kind]
    spec, workdir = many_runs.write_sweep(tmp_path, 8)
    if kind == "exit":
        (workdir / NAME / "result.json").unlink()
    damage(workdir / NAME)
    argv = ["--sweep", spec, "--workdir", str(workdir)]
    assert command.run(sweep.main, [*argv, "--status"]) == 0
    shown, _, problems = capsys.readouterr().out.partition("\n\n")
    states = {line.split()[0]: line.split()[1] for line in shown.splitlines()[1:]}
    assert states.pop(NAME) == ("mismatched" if kind == "other config" else "broken")
    assert len(states) == 7 and set(states.values()) == {"finished"}
    assert problems.startswith(f"1 point cannot be used:\n  {NAME}: ") and words in problems
    for flags in ([], ["--retry"]):
        assert command.run(sweep.main, [*argv, *flags]) == 2
        output, error = capsys.readouterr()
        assert "8 points, 0 to run" in output and words in error
    found = report_runs.find_runs(workdir)
    assert len(found.broken) == is_left_out and len(found.finished) >= 7
    assert all(words in message for message in found.broken)


def test_report_names_the_runs_that_it_leaves_out(tmp_path, capsys):
    _, workdir = many_runs.write_sweep(tmp_path, 8)
    (workdir / NAME / "result.json").write_text("{")
    for name in ("results", "sweep"):
        flags = ["--runs", str(workdir), "--out", str(tmp_path / "out")]
        assert command.run(report.main, [name, *flags]) == 0
        output, error = capsys.readouterr()
        assert "7 runs finished, 0 unfinished, 1 broken. Written" in output
        assert error.count("\n") == 1
        assert error.startswith(f"skipped: {workdir / NAME / 'result.json'} is damaged")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("results.md", "results.csv"),
        *(f"sweep.{kind}" for kind in ("md", "csv", "png", "svg", "pdf")),
    }


@pytest.mark.parametrize("content", [b"", b"\x00\xff", b"9" * 5000, b"three"])
def test_unreadable_exit_status_counts_as_an_interruption(tmp_path, content):
    spec, workdir = many_runs.write_sweep(tmp_path, 8)
    (workdir / NAME / "result.json").unlink()
    (workdir / "logs" / f"{NAME}.exit").write_bytes(content)
    [point] = [point for point in many_runs.load_points(spec, workdir) if point.name == NAME]
    assert point.state() == "interrupted"


def test_directory_of_another_sweep_is_an_error(swept, capsys):
    argv = ["--sweep", swept[0], "--workdir", str(swept[1]), "--config.epochs=3"]
    for flags in ([], ["--dry_run"], ["--retry"]):
        assert command.run(sweep.main, [*argv, *flags]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "have other configs" in error
