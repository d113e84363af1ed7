"""Compiler options of each platform."""

import logging

import jax
import pytest
import small

from densenet_jax.train import compiler
from densenet_jax.train.compiler import compile_program, compiler_options, load_cudnn

PLATFORMS = ("cpu", "gpu", "tpu")


@pytest.fixture
def lowered():
    return jax.jit(lambda x: x + 1).lower(1)


@pytest.fixture
def eager(monkeypatch):
    """Sets the environment variables that our commands set."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setenv(*compiler.EAGER_LOADING)


def test_only_the_gpu_compiler_gets_options(eager):
    for deterministic in (False, True):
        config = small.config({"deterministic": deterministic})
        options = {platform: compiler_options(config, platform) for platform in PLATFORMS}
        assert options["cpu"] == options["tpu"] == {}
        assert ("xla_gpu_deterministic_ops" in options["gpu"]) == deterministic
        assert "CONVOLUTION" in options["gpu"]["xla_gpu_enable_command_buffer"]


def test_convolutions_are_captured_only_where_kernels_are_loaded_early(eager, monkeypatch):
    monkeypatch.setenv("CUDA_MODULE_LOADING", "LAZY")
    assert compiler_options(small.config(), "gpu") == {}
    monkeypatch.delenv("CUDA_MODULE_LOADING")
    assert compiler_options(small.config(), "gpu") == {}


def test_flags_of_the_user_are_not_overridden(eager, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_command_buffer=")
    assert compiler_options(small.config(), "gpu") == {}


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_installed_jaxlib_accepts_the_options(deterministic, eager, lowered, caplog):
    """A compiler refuses options that it does not know, on every platform."""
    config = small.config({"deterministic": deterministic})
    assert compile_program(lowered, config, "gpu")(1) == 2
    assert not caplog.messages


def test_an_unknown_option_is_dropped_with_a_warning(eager, lowered, monkeypatch, caplog):
    monkeypatch.setattr(compiler, "_IN_GRAPHS", "FUSION,NO_SUCH_THING")
    with caplog.at_level(logging.WARNING):
        assert compile_program(lowered, small.config(), "gpu")(1) == 2
    assert "does not record convolutions" in caplog.messages[0]


def test_other_compiler_errors_are_raised(eager, lowered, monkeypatch):
    options = {"xla_of_no_name": True}
    monkeypatch.setattr(compiler, "compiler_options", lambda *_: options)
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_of_no_name"):
        compile_program(lowered, small.config(), "gpu")


def test_cudnn_is_loaded_before_programs_with_graphs(eager, lowered, monkeypatch):
    load_cudnn.cache_clear()
    monkeypatch.setenv("CUDA_MODULE_LOADING", "LAZY")
    compile_program(lowered, small.config(), "gpu")
    assert load_cudnn.cache_info().misses == 0
    monkeypatch.setenv(*compiler.EAGER_LOADING)
    compile_program(lowered, small.config(), "gpu")
    assert load_cudnn.cache_info().misses == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_convolution_runs_on_each_device(dtype):
    """On a GPU this loads cuDNN; elsewhere it shows that the convolution can be computed."""
    load_cudnn(tuple(jax.local_devices()), dtype)
