"""Checks of a run directory: metrics that differ from the checkpoint, other files, odd paths."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading

import pytest
import small
from cases import slow_except
from test_checkpoint import empty, make_state

from densenet_jax.errors import InputError
from densenet_jax.files import MAX_JSON_BYTES, MAX_JSON_DEPTH, read_object
from densenet_jax.train import record
from densenet_jax.train.checkpoint import Checkpoints
from densenet_jax.train.fit import fit
from densenet_jax.train.record import RunDirectory
from launch import command, evaluate, train


@pytest.fixture(scope="module")
def stopped_run(finished_run, tmp_path_factory):
    """Returns the small run as it was after two of its four epochs."""
    directory = shutil.copytree(finished_run, tmp_path_factory.mktemp("stopped") / "run")
    (directory / "result.json").unlink()
    shutil.rmtree(directory / "checkpoints" / str(4 * small.STEPS_PER_EPOCH))
    metrics = directory / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:2]))
    return directory


def cut_off(lines):
    return lines[:1]


def doubled(lines):
    return [lines[0], *lines]


def edited(lines):
    return [json.dumps(json.loads(lines[0]) | {"test_error": 0.0}) + "\n", *lines[1:]]


def garbage(lines):
    return ["\x1b[31m{]\n", *lines]


def missing(lines):
    return []


@pytest.mark.parametrize(
    "change", slow_except([edited], [cut_off, doubled, edited, garbage, missing])
)
def test_metrics_that_disagree_with_the_checkpoint_are_restored(
    stopped_run, finished_run, tmp_path, caplog, change
):
    run = shutil.copytree(stopped_run, tmp_path / "run")
    metrics = run / "metrics.jsonl"
    changed = "".join(change(metrics.read_text().splitlines(keepends=True)))
    metrics.write_text(changed)
    result = fit(small.config(), run)
    assert metrics.read_bytes() == (finished_run / "metrics.jsonl").read_bytes()
    assert result["test_error"] == RunDirectory(finished_run).result()["test_error"]
    assert "differs from the checkpoint: restored 2 lines from" in caplog.text
    kept = run / "metrics.jsonl.damaged"
    assert kept.read_text() == changed


@pytest.mark.slow
def test_an_early_checkpoint_without_metrics_needs_the_file(tmp_path):
    from test_stored_run import STORED

    run = shutil.copytree(STORED, tmp_path / "run")
    (run / "result.json").unlink()
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(InputError, match="has not one line for each of the 4 epochs"):
        fit(RunDirectory(STORED).config(), run)


@pytest.mark.parametrize("name", ["config.json", "model.json", "result.json"])
@pytest.mark.parametrize(
    "content, reason",
    [
        (b"[1, 2]", "it holds a list, not a JSON object"),
        (b"\xff\xfe\x00", "can't decode"),
        (b"{", "Expecting"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_damaged_file_is_a_one_line_error(copied_run, name, content, reason):
    (copied_run / name).write_bytes(content)
    run = RunDirectory(copied_run)
    read = {"config.json": run.config, "model.json": run.model, "result.json": run.result}[name]
    message = rf"{name} is damaged \(.*{re.escape(reason)}.*: restore or remove it"
    with pytest.raises(InputError, match=message):
        read()


def test_bytes_of_a_json_file(copied_run):
    path = copied_run / "config.json"
    path.write_bytes(path.read_bytes().ljust(MAX_JSON_BYTES))
    assert RunDirectory(copied_run).config().epochs == 4
    with path.open("ab") as file:
        file.write(b" ")
    with pytest.raises(InputError, match=r"config\.json has 16,777,217 bytes, more than the limit"):
        RunDirectory(copied_run).config()


def test_depth_of_a_json_file(tmp_path):
    for depth in (MAX_JSON_DEPTH, MAX_JSON_DEPTH + 1):
        (tmp_path / str(depth)).write_text('{"a": ' * depth + "1" + "}" * depth)
    assert read_object(tmp_path / str(MAX_JSON_DEPTH)).keys() == {"a"}
    with pytest.raises(InputError, match="nested more than 100 deep"):
        read_object(tmp_path / str(MAX_JSON_DEPTH + 1))


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", ".lock"])
def test_a_fifo_is_not_waited_for(copied_run, name):
    (copied_run / "result.json").unlink()
    (copied_run / name).unlink(missing_ok=True)
    os.mkfifo(copied_run / name)
    with pytest.raises(InputError, match=rf"{name} is a named pipe, not a regular file"):
        fit(small.config(), copied_run)


def test_bytes_of_metrics(copied_run, monkeypatch):
    run, size = RunDirectory(copied_run), (copied_run / "metrics.jsonl").stat().st_size
    monkeypatch.setattr(record, "MAX_METRICS_BYTES", size)
    assert len(run.metrics()) == 4
    monkeypatch.setattr(record, "MAX_METRICS_BYTES", size - 1)
    with pytest.raises(InputError, match=r"metrics\.jsonl has .* bytes, more than the limit"):
        run.metrics()


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("test_error", None, "None"),
        ("test_error", "5.0", "'5.0'"),
        ("test_error", math.nan, "nan"),
        ("test_error", 100.5, "100.5"),
        ("epochs", record.MAX_RESULT + 1, "9007"),
        ("epochs", 10**400, "1000"),
        ("train_seconds", math.inf, "inf"),
        ("broken_pictures", -math.inf, "-inf"),
    ],
)
def test_values_of_a_result(copied_run, key, value, shown):
    path = copied_run / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(InputError, match=rf"result.json is damaged \({key} is {shown}"):
        RunDirectory(copied_run).result()


def test_a_damaged_line_of_metrics_is_named(copied_run):
    with (copied_run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1\n')
    with pytest.raises(InputError, match=r"line 5 of .*metrics.jsonl is damaged"):
        RunDirectory(copied_run).metrics()


def test_files_of_editors_and_loggers_are_ignored(tmp_path):
    strays = (".config.json.new", ".notes.swp", "notes~", "slurm-7.out", "train.log", ".nfs0001")
    for name in strays:
        (tmp_path / name).write_text("mine")
    run = RunDirectory(tmp_path)
    run.check(small.config())
    run.start(small.config(), {})
    assert not (tmp_path / ".config.json.new").exists(), "left by a killed start of a run"
    assert {(tmp_path / name).read_text() for name in strays[1:]} == {"mine"}


@pytest.mark.parametrize("name", ["notes.txt", "metrics.jsonl", "checkpoints"])
def test_a_directory_with_other_files_is_refused(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=rf"holds other files \({name}\)"):
        RunDirectory(tmp_path).check(small.config())


@pytest.mark.parametrize("name", ["lr[0.1]", "a\\b", "a*", "b?", "a\udcff"])
def test_paths_whose_checkpoints_could_not_be_read_are_refused(tmp_path, capsys, name):
    argv = ["--config", str(small.QUICKSTART), "--workdir", str(tmp_path / name / "run")]
    assert command.run(train.main, [*argv, "--compile_cache=off"]) == 2
    output, errors = capsys.readouterr()
    assert "without such characters" in errors and errors.count("\n") == 1
    assert "compiled" not in output and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a]b", "ä b", "{a}", "$a", "a%sb", "'\"", "a\tb", "#;&|<>"])
def test_checkpoints_in_other_odd_paths_are_read(tmp_path, name):
    with Checkpoints(tmp_path / name) as checkpoints:
        checkpoints.save(make_state(3), {"epoch": 3})
    with Checkpoints(tmp_path / name) as checkpoints:
        _, progress = checkpoints.restore(empty(make_state(3)))
    assert progress == {"epoch": 3}


def test_a_dangling_link_is_refused(tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / "gone")
    with pytest.raises(InputError, match=r"run, a symbolic link to .*gone, which does not exist"):
        RunDirectory(tmp_path / "run").check(small.config())


@pytest.mark.parametrize("saves", [12, pytest.param(40, marks=pytest.mark.slow)])
def test_the_best_checkpoint_can_be_read_while_a_run_saves(tmp_path, saves):
    """Each save may remove the checkpoint that is being read."""
    directory, is_done, read = tmp_path / "checkpoints", threading.Event(), []

    def keep_reading():
        like = {"params": make_state(1).params, "batch_stats": make_state(1).batch_stats}
        while not is_done.is_set():
            with Checkpoints(directory, read_only=True) as checkpoints:
                read.append(checkpoints.restore_model(like, "best"))

    with Checkpoints(directory) as checkpoints:
        checkpoints.save(make_state(1), {}, best=1)
        checkpoints.wait()
        reader = threading.Thread(target=keep_reading)
        reader.start()
        for step in range(2, saves):
            checkpoints.save(make_state(step), {}, best=step)
        is_done.set()
        reader.join()
    assert len(read) >= 3


def test_the_rest_of_an_interrupted_deletion_is_removed(tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        for step in (10, 20, 30, 40):
            checkpoints.save(make_state(step), {}, best=10)
    shutil.copytree(tmp_path / "30", tmp_path / "20")
    (tmp_path / "20" / "progress" / "metadata").unlink()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.restore(empty(make_state(10)))
        assert checkpoints.steps() == [40, 30, 10]


@pytest.mark.slow
@pytest.mark.parametrize("output", ["| head -1", "> /dev/full"])
def test_training_outlives_its_standard_output(tmp_path, output):
    argv = ["-m", "launch.train", "--config", "experiments/quickstart.py", "--workdir", "$RUN"]
    shell = " ".join([sys.executable, *argv, *(f"'{flag}'" for flag in small.flags(small.PLAIN))])
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {shell} {output}"],
        cwd=small.ROOT,
        env=os.environ | {"RUN": str(tmp_path / "run")},
        capture_output=True,
        text=True,
    )
    assert RunDirectory(tmp_path / "run").result()["epochs"] == 4
    assert done.stderr.count("\n") == 1
    assert "cannot write to standard output" in done.stderr
    assert done.returncode == (0 if "head" in output else 3)


def test_a_checkpoint_that_reads_back_with_other_values_is_an_error(tmp_path, monkeypatch):
    """A checkpoint is read back before it becomes the newest one."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(make_state(10), {})
        checkpoints.wait()
        monkeypatch.setattr(
            "densenet_jax.train.checkpoint.digests", lambda arrays: {"step": os.urandom(4).hex()}
        )
        checkpoints.save(make_state(20), {})
        with pytest.raises(Exception, match=r"step reads back with other values.*step 10 is kept"):
            checkpoints.wait()
        assert checkpoints.steps() == [10]


@pytest.mark.parametrize("kind", ["a directory in place of the checksums", "no permission"])
def test_a_checkpoint_that_cannot_be_read_is_skipped(copied_run, capsys, caplog, kind):
    newest = copied_run / "checkpoints" / str(4 * small.STEPS_PER_EPOCH)
    if kind == "no permission":
        (newest / "SHA256SUMS").unlink()
        (newest / "SHA256SUMS").symlink_to("SHA256SUMS")  # Even root cannot read a loop.
    else:
        (newest / "SHA256SUMS").unlink()
        (newest / "SHA256SUMS").mkdir()
    argv = ["--workdir", str(copied_run), "--compile_cache=off", "--json"]
    assert command.run(evaluate.main, argv) == 0
    assert f"the checkpoint of step {newest.name} cannot be read" in caplog.text
    assert json.loads(capsys.readouterr().out)["step"] < int(newest.name)


def test_a_large_loss_is_accepted(copied_run):
    path = copied_run / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"test_loss": 1e30}))
    assert RunDirectory(copied_run).result()["test_loss"] == 1e30
