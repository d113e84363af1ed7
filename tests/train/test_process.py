"""The settings that a run needs from its process."""

import os

import jax
import small

from densenet_jax.train import process
from densenet_jax.train.compiler import EAGER_LOADING, compiler_options


def test_only_an_unused_jax_loads_kernels_eagerly(monkeypatch):
    """Convolutions are in CUDA graphs only if CUDA has loaded their kernels at the start."""
    name, value = EAGER_LOADING
    monkeypatch.delenv(name, raising=False)
    process.configure()
    assert name not in os.environ and compiler_options(small.config(), "gpu") == {}
    monkeypatch.setenv(name, "unset")  # Restores the variable after the test.
    monkeypatch.delenv(name)
    process.configure(jax_is_unused=True)
    assert os.environ[name] == value and compiler_options(small.config(), "gpu")


def test_settings_are_those_of_the_process():
    process.configure()
    found = process.settings()
    assert found["switch_interval_seconds"] == process.SWITCH_INTERVAL_SECONDS
    assert found["jax_cpu_enable_async_dispatch"] is False
    assert jax.config.values["jax_cpu_enable_async_dispatch"] is False
