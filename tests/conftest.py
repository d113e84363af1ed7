"""What the tests of all rooms share: where JAX runs, one finished run, one network."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from launch.cache import cache_directory

# JAX reads these when it is imported; commands that tests start inherit them.
# Tests of numbers can run on other devices; most other tests expect a CPU.
os.environ["JAX_PLATFORMS"] = os.environ.get("DENSENET_JAX_TEST_PLATFORM", "cpu")
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(
    (cache_directory() or Path(tempfile.gettempdir()) / "densenet_jax") / "tests"
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Compiling takes most of the time here; XLA's optimisations would make it several times longer.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

# A helper of one room that serves others as well: published_sets.
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

# The same examples each time: who changes nothing breaks nothing.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def compile_cache():
    """Gives the other tests their compile cache back if a command turned it off or moved it."""
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.fixture
def float64():
    """The test runs with 64-bit types."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def optimized():
    """The test's functions are worth XLA's optimisations: they run for long."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def trainer():
    """The trainer of the small run, whose programs are compiled once for all tests."""
    return Trainer(small.config())


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """The run directory of the small run, which no test may change."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    fit(small.config(), folder)
    return folder


@pytest.fixture
def copied_run(finished_run, tmp_path):
    """A copy of the small run, to be spoilt."""
    return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture(scope="session")
def network():
    """A tiny network for ImageNet's classes, which has learnt nothing."""
    return dj.create_model(small.CLASSIFIER, num_classes=1000, rngs=nnx.Rngs(0))


@pytest.fixture(scope="session")
def weights(network, tmp_path_factory):
    """A file of its weights."""
    path = tmp_path_factory.mktemp("weights") / "densenet.safetensors"
    weight_files.write(path, dj.weights.to_torch(network))
    return path
