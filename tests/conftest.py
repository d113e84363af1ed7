"""Shared fixtures: the platform of JAX, a finished run, a network and its weights."""

import os
import runpy
import shutil
import sys
import tempfile
from pathlib import Path

# JAX reads these variables when it is imported; commands that tests start inherit them.
# Tests of numerical results can run on other devices; most other tests expect a CPU.
os.environ["JAX_PLATFORMS"] = os.environ.get("DENSENET_JAX_TEST_PLATFORM", "cpu")
# Importing `places` would import JAX, so its file is run instead.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(
    (
        runpy.run_path(str(Path(__file__).parents[1] / "densenet_jax" / "data" / "places.py"))[
            "cache_directory"
        ]()
        or Path(tempfile.gettempdir()) / "densenet_jax"
    )
    / "tests"
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
if os.environ["JAX_PLATFORMS"] == "cpu":
    # Compilation takes most of the time of the tests; optimisations would make it much longer.
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

# No test may read the data sets of the user.
os.environ["DENSENET_JAX_DATA"] = "/nonexistent/densenet_jax"

# Tests in other directories import published_sets as well.
sys.path.append(str(Path(__file__).parent / "data"))

import hypothesis
import jax
import pytest
import small
from flax import nnx

import densenet_jax as dj
from densenet_jax import weight_files
from densenet_jax.train.fit import fit
from densenet_jax.train.trainer import Trainer

# Hypothesis draws the same examples in each run, so that unchanged code cannot start to fail.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def compile_cache():
    """Restores the compile cache after a test whose command turned it off or moved it."""
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def float64():
    """Turns 64-bit types on for the test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def trainer():
    """Returns the trainer of the small run; its programs are compiled once for all tests."""
    return Trainer(small.config())


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """Returns the run directory of the finished small run, which no test may change."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    fit(small.config(), directory)
    return directory


@pytest.fixture
def copied_run(finished_run, tmp_path):
    """Returns a copy of the finished small run, which the test may change."""
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture(scope="session")
def network():
    """Returns a tiny untrained network for the classes of ImageNet."""
    return dj.create_model(small.CLASSIFIER, num_classes=1000, rngs=nnx.Rngs(0))


@pytest.fixture(scope="session")
def weights(network, tmp_path_factory):
    """Returns a file with the weights of `network`."""
    path = tmp_path_factory.mktemp("weights") / "densenet.safetensors"
    weight_files.write(path, dj.weights.to_torch(network))
    return path
