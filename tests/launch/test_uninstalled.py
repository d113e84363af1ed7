"""A command runs with packages that are on the path but not installed."""

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import small


@pytest.mark.slow
def test_training_from_a_source_tree_without_metadata(tmp_path):
    """Python finds all packages, but no metadata of this project and of NumPy."""
    ours = [small.ROOT / name for name in ("densenet_jax", "experiments", "launch")]
    others = [
        path
        for path in Path(sysconfig.get_path("purelib")).iterdir()
        if "densenet_jax" not in path.name and not path.name.startswith("numpy-")
    ]
    packages = tmp_path / "packages"
    packages.mkdir()
    for path in ours + others:
        (packages / path.name).symlink_to(path)
    flags = small.flags(small.PLAIN | {"epochs": 1})
    done = subprocess.run(
        # -S leaves out the packages that are installed.
        [sys.executable, "-S", "-m", "launch.train", "--config", small.QUICKSTART,
         "--workdir", "run", "--compile_cache=off", *flags],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    versions = json.loads((tmp_path / "run" / "environment.json").read_text())["packages"]
    assert versions["densenet_jax"] is None and versions["numpy"] is None
    assert versions["jax"] is not None
