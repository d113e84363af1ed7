"""DENSENET_JAX_TEST_PLATFORM chooses the platform of the tests."""

import pytest
import small


@pytest.mark.slow
def test_tests_can_run_on_another_platform():
    program = "import conftest, jax; print(jax.config.jax_platforms)"
    process = small.start("-c", program, DENSENET_JAX_TEST_PLATFORM="cuda")
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert output == "cuda\n"
