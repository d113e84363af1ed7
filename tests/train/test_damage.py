"""Damaged checkpoints are reported and set aside, and the previous checkpoint is used."""

import itertools
import json
import logging
import shutil

import jax
import numpy as np
import pytest
import small
from cases import slow_except
from hypothesis import given, settings
from hypothesis import strategies as st
from test_checkpoint import empty, make_state

from densenet_jax.errors import InputError, Interrupted
from densenet_jax.train.checkpoint import Checkpoints
from densenet_jax.train.fit import fit
from densenet_jax.train.integrity import CHECKSUM_FILE
from launch import command, evaluate

OLDER, NEWER = 3, 5


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Returns a directory with two checkpoints, which no test may change."""
    directory = tmp_path_factory.mktemp("saved")
    with Checkpoints(directory) as checkpoints:
        for step in (OLDER, NEWER):
            checkpoints.save(make_state(step), {"epoch": step})
    return directory


def files_of(checkpoint):
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def restored(directory) -> int:
    """Restores the last checkpoint and compares it bit for bit; returns its step."""
    with Checkpoints(directory) as checkpoints:
        state, progress = checkpoints.restore(like=empty(make_state(OLDER)))
    step = int(state.step)
    assert progress == {"epoch": step}
    for found, given_ in zip(
        jax.tree.leaves(state), jax.tree.leaves(make_state(step)), strict=True
    ):
        assert np.asarray(found).tobytes() == np.asarray(given_).tobytes()
    return step


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change(path, position=None, bit=0):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 1 << bit
    path.write_bytes(content)


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut short": cut,
    "one bit changed": change,
}
FILES = {
    "checksums": CHECKSUM_FILE,
    "progress": "progress/metadata",
    "tree": "state/_METADATA",
    "manifest": "state/manifest.ocdbt",
    "arrays": "state/ocdbt.process_0/d/*",
}


# Each file and each kind of damage once.
FAST = [
    *(("checksums", "one bit changed"), ("progress", "missing"), ("tree", "cut short")),
    *(("manifest", "empty"), ("arrays", "one bit changed")),
]


@pytest.mark.parametrize(("file", "kind"), slow_except(FAST, itertools.product(FILES, DAMAGE)))
def test_the_previous_checkpoint_is_used(saved, tmp_path, caplog, file, kind):
    directory = shutil.copytree(saved, tmp_path / "checkpoints")
    path = max((directory / str(NEWER)).glob(FILES[file]), key=lambda path: path.stat().st_size)
    DAMAGE[kind](path)
    damaged = small.snapshot(directory / str(NEWER))
    assert restored(directory) == OLDER
    (message,) = [record.getMessage() for record in caplog.records]
    assert f"the checkpoint of step {NEWER} cannot be read" in message
    assert f"using step {OLDER}" in message
    # The damaged files are kept, and the step can be saved again.
    assert small.snapshot(directory / f"{NEWER}.damaged") == damaged
    with Checkpoints(directory) as checkpoints:
        checkpoints.save(make_state(NEWER), {"epoch": NEWER})
    assert restored(directory) == NEWER


@settings(max_examples=40)
@given(data=st.data())
def test_a_changed_bit_never_changes_the_restored_values(saved, tmp_path_factory, data):
    directory = shutil.copytree(saved, tmp_path_factory.mktemp("flipped") / "checkpoints")
    path = data.draw(st.sampled_from(files_of(directory / str(NEWER))))
    position = data.draw(st.integers(0, path.stat().st_size - 1))
    change(path, position, data.draw(st.integers(0, 7)))
    assert restored(directory) in (OLDER, NEWER)


def test_only_damaged_checkpoints_are_an_error(saved, tmp_path):
    directory = shutil.copytree(saved, tmp_path / "checkpoints")
    for step in (OLDER, NEWER):
        change(directory / str(step) / CHECKSUM_FILE)
    before = small.snapshot(directory)
    with pytest.raises(InputError, match=rf"only damaged .*step {NEWER}.*step {OLDER}.*from the"):
        restored(directory)
    assert small.snapshot(directory) == before


def test_a_checkpoint_of_another_format_is_refused(tmp_path, monkeypatch):
    with Checkpoints(tmp_path) as checkpoints, monkeypatch.context() as patch:
        patch.setattr("densenet_jax.train.checkpoint.FORMAT", 99)
        checkpoints.save(make_state(NEWER), {})
    before = small.snapshot(tmp_path)
    with pytest.raises(InputError, match="has format 99, but this version reads 1"):
        restored(tmp_path)
    assert small.snapshot(tmp_path) == before


def newest(run):
    names = [path.name for path in (run / "checkpoints").iterdir()]
    return run / "checkpoints" / max(filter(str.isdecimal, names), key=int)


def test_training_resumes_from_the_previous_checkpoint(copied_run, caplog):
    metrics = (copied_run / "metrics.jsonl").read_bytes()
    (copied_run / "result.json").unlink()
    change(newest(copied_run) / FILES["manifest"])
    fit(small.config(), copied_run)
    assert "using step" in caplog.text
    assert (copied_run / "metrics.jsonl").read_bytes() == metrics
    assert newest(copied_run).name == str(4 * small.STEPS_PER_EPOCH)


def test_evaluation_warns_and_changes_no_file(copied_run, capsys, caplog):
    change(newest(copied_run) / FILES["manifest"])
    before = small.snapshot(copied_run)
    argv = ["--workdir", str(copied_run), "--compile_cache=off", "--json"]
    assert command.run(evaluate.main, argv) == 0
    step = json.loads(capsys.readouterr().out)["step"]
    assert step < 4 * small.STEPS_PER_EPOCH
    assert f"using step {step}" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert small.snapshot(copied_run) == before


@pytest.mark.slow
def test_a_checkpoint_named_after_another_step_is_skipped(copied_run, caplog):
    metrics = (copied_run / "metrics.jsonl").read_bytes()
    (copied_run / "result.json").unlink()
    last = newest(copied_run)
    shutil.copytree(last, last.with_name("900000"))
    shutil.rmtree(last)
    fit(small.config(), copied_run)
    assert f"step 900000 cannot be read (it is the checkpoint of step {last.name})" in caplog.text
    assert (copied_run / "metrics.jsonl").read_bytes() == metrics
    assert newest(copied_run) == last


def test_a_save_that_orbax_skips_is_an_error(saved, tmp_path):
    directory = shutil.copytree(saved, tmp_path / "checkpoints")
    with (
        Checkpoints(directory) as checkpoints,
        pytest.raises(Interrupted, match="Orbax skips step 4"),
    ):
        checkpoints.save(make_state(OLDER + 1), {})
