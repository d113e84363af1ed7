"""Tests `python -m launch.report augmentations`: a photograph after each change."""

import numpy as np
import pytest
from PIL import Image

from densenet_jax.errors import InputError
from launch import command
from launch.report import __main__ as report
from launch.report import augmentations


@pytest.mark.slow
def test_each_row_shows_other_changes(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(augmentations, "_SIDE", 24)
    monkeypatch.setattr(augmentations, "_COLUMNS", 4)
    assert command.run(report.main, ["augmentations", "--out", str(tmp_path)]) == 0
    count = len(augmentations.ROWS)
    assert capsys.readouterr().out == f"{count} changes. Written to {tmp_path}\n"
    with Image.open(tmp_path / "augmentations.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    # 24 pixels and a gap of 4 for each row and column, beside labels of 150 pixels.
    assert pixels.shape == (count * 28 - 4, 150 + 4 * 28 - 4, 3)
    originals = [augmentations.photograph(name).astype(int) for name in augmentations._PARTS] * 2
    for row in range(count):
        tiles = [pixels[28 * row :, 150 + 28 * i :][:24, :24] for i in range(4)]
        assert tiles[0].tobytes() != tiles[2].tobytes() or tiles[1].tobytes() != tiles[3].tobytes()
        # The palette moves colours a little.
        moved = [
            abs(tile - original).mean() for tile, original in zip(tiles, originals, strict=True)
        ]
        assert max(moved) > 12, row
        assert pixels[28 * row :, :150][:24].min() < 100, "a label"


def test_runs_are_refused(tmp_path):
    with pytest.raises(InputError, match="augmentations shows no runs: remove --runs"):
        report.main(["augmentations", "--runs", str(tmp_path)])
