"""Checkpoints that are not as they were written: told, set aside, and the one before is used."""

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
    """A folder with two checkpoints, which no test may change."""
    folder = tmp_path_factory.mktemp("saved")
    with Checkpoints(folder) as checkpoints:
        for step in (OLDER, NEWER):
            checkpoints.save(make_state(step), {"epoch": step})
    return folder


def files_of(checkpoint):
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def restored(folder) -> int:
    """The step of what is restored, which is looked at to the last bit."""
    with Checkpoints(folder) as checkpoints:
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
    "a bit changed": change,
}
FILES = {
    "sums": CHECKSUM_FILE,
    "progress": "progress/metadata",
    "tree": "state/_METADATA",
    "manifest": "state/manifest.ocdbt",
    "numbers": "state/ocdbt.process_0/d/*",
}


# Each file and each kind of damage once.
FAST = [
    *(("sums", "a bit changed"), ("progress", "missing"), ("tree", "cut short")),
    *(("manifest", "empty"), ("numbers", "a bit changed")),
]


@pytest.mark.parametrize(("file", "kind"), slow_except(FAST, itertools.product(FILES, DAMAGE)))
def test_the_one_before_is_used(saved, tmp_path, caplog, file, kind):
    folder = shutil.copytree(saved, tmp_path / "checkpoints")
    path = max((folder / str(NEWER)).glob(FILES[file]), key=lambda path: path.stat().st_size)
    DAMAGE[kind](path)
    damaged = small.snapshot(folder / str(NEWER))
    assert restored(folder) == OLDER
    (message,) = [record.getMessage() for record in caplog.records]
    assert f"the checkpoint of step {NEWER} cannot be read" in message
    assert f"using step {OLDER}" in message
    # Nothing is lost; and the step can be saved again.
    assert small.snapshot(folder / f"{NEWER}.damaged") == damaged
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(make_state(NEWER), {"epoch": NEWER})
    assert restored(folder) == NEWER


@settings(max_examples=40)
@given(data=st.data())
def test_no_changed_bit_is_taken_for_what_was_saved(saved, tmp_path_factory, data):
    folder = shutil.copytree(saved, tmp_path_factory.mktemp("flipped") / "checkpoints")
    path = data.draw(st.sampled_from(files_of(folder / str(NEWER))))
    position = data.draw(st.integers(0, path.stat().st_size - 1))
    change(path, position, data.draw(st.integers(0, 7)))
    assert restored(folder) in (OLDER, NEWER)


def test_all_are_damaged(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "checkpoints")
    for step in (OLDER, NEWER):
        change(folder / str(step) / CHECKSUM_FILE)
    before = small.snapshot(folder)
    with pytest.raises(InputError, match=rf"only damaged .*step {NEWER}.*step {OLDER}.*from the"):
        restored(folder)
    assert small.snapshot(folder) == before


def test_a_checkpoint_of_another_format(tmp_path, monkeypatch):
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


def test_training_goes_on_from_the_one_before(copied_run, caplog):
    metrics = (copied_run / "metrics.jsonl").read_bytes()
    (copied_run / "result.json").unlink()
    change(newest(copied_run) / FILES["manifest"])
    fit(small.config(), copied_run)
    assert "using step" in caplog.text
    assert (copied_run / "metrics.jsonl").read_bytes() == metrics
    assert newest(copied_run).name == str(4 * small.STEPS_PER_EPOCH)


def test_evaluation_tells_and_touches_nothing(copied_run, capsys, caplog):
    change(newest(copied_run) / FILES["manifest"])
    before = small.snapshot(copied_run)
    argv = ["--workdir", str(copied_run), "--compile_cache=off"]
    assert command.run(evaluate.main, argv) == 0
    step = json.loads(capsys.readouterr().out)["step"]
    assert step < 4 * small.STEPS_PER_EPOCH
    assert f"using step {step}" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert small.snapshot(copied_run) == before


def test_a_checkpoint_under_the_name_of_another_step(copied_run, caplog):
    metrics = (copied_run / "metrics.jsonl").read_bytes()
    (copied_run / "result.json").unlink()
    last = newest(copied_run)
    shutil.copytree(last, last.with_name("900000"))
    shutil.rmtree(last)
    fit(small.config(), copied_run)
    assert f"step 900000 cannot be read (it is the checkpoint of step {last.name})" in caplog.text
    assert (copied_run / "metrics.jsonl").read_bytes() == metrics
    assert newest(copied_run) == last


def test_a_save_that_orbax_skips_is_told(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "checkpoints")
    with Checkpoints(folder) as checkpoints, pytest.raises(Interrupted, match="does not save"):
        checkpoints.save(make_state(OLDER + 1), {})
