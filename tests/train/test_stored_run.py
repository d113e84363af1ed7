"""Every later version can use a run of version 0.1.0, which is in stored_run/.

The config of the run is `small.RUN` with `learning_rate_drops=()`. The first epoch is the best one
in validation.
"""

import json
import shutil
from pathlib import Path

import pytest
import small

from densenet_jax.train import saved_network
from densenet_jax.train.fit import fit
from densenet_jax.train.record import RunDirectory
from launch import command, evaluate

STORED = Path(__file__).parent / "stored_run"


@pytest.mark.parametrize("checkpoint, epoch", [("last", 4), ("best", 1)])
def test_a_stored_run_can_be_evaluated(capsys, checkpoint, epoch):
    before = small.snapshot(STORED)
    argv = ["--workdir", str(STORED), f"--checkpoint={checkpoint}", "--compile_cache=off", "--json"]
    assert command.run(evaluate.main, argv) == 0
    printed = json.loads(capsys.readouterr().out)
    line = RunDirectory(STORED).metrics()[epoch - 1]
    assert printed["step"] == line["step"]
    for split, images in (("test", 360), ("validation", 37)):
        assert printed[f"{split}_loss"] == pytest.approx(line[f"{split}_loss"], rel=1e-4)
        # Rounding may change the prediction of one image.
        assert abs(printed[f"{split}_error"] - line[f"{split}_error"]) <= 100 / images + 1e-6
    assert small.snapshot(STORED) == before


def test_the_network_of_a_stored_run_can_be_loaded():
    model, description = saved_network.load_network(STORED)
    assert description["mean"] == pytest.approx([4.88 * 255 / 16])
    assert model.config.block_config == (1, 1)


def test_a_stored_run_can_be_resumed(tmp_path, capsys):
    """Resumes the run from the checkpoint of its second epoch."""
    run = shutil.copytree(STORED, tmp_path / "run")
    (run / "result.json").unlink()
    shutil.rmtree(run / "checkpoints" / "88")
    fit(RunDirectory(STORED).config(), run)
    assert "resuming from step 44" in capsys.readouterr().out
    lines, expected = (RunDirectory(path).metrics() for path in (run, STORED))
    assert lines[:2] == expected[:2]
    # Rounding differs between versions of XLA, and grows from step to step.
    assert lines[2]["train_loss"] == pytest.approx(expected[2]["train_loss"], rel=1e-2)
