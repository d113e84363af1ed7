"""Costs of training steps with kernels, compiled for an H100 that need not exist."""

import functools
import json
import os
import re
import subprocess
import sys

import pytest
import small

from densenet_jax.analysis.targets import find_target

TARGET = find_target("h100")
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not TARGET.compiler_is_installed(), reason="no compiler for GPUs here"),
]


@functools.cache
def step(network: str, batch_size: int, block: str) -> dict:
    """Returns the costs of a step; `step_for_h100.py` names them."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_DISABLE_MOST_OPTIMIZATIONS"}
    logs = {"TF_CPP_MIN_LOG_LEVEL": "0", "TF_CPP_VMODULE": "subprocess_compilation=5"}
    done = subprocess.run(
        [sys.executable, "tests/models/step_for_h100.py", network, str(batch_size), block],
        cwd=small.ROOT,
        env=environment | TARGET.environment | logs | {"PYTHONPATH": f"{small.ROOT}:tests"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # A description of each kernel ends before that of the next one begins.
    described = done.stderr.split("ptxas info    : Compiling entry function ")[1:]
    ours = [text for text in described if re.match(r"'(forward_tile|backward_strip)", text)]
    spills = [SPILLS.findall(text) for text in ours]
    assert all(spills), "ptxas does not say what it spills"
    spilled = sum(int(n) for pairs in spills for pair in pairs for n in pair)
    return json.loads(done.stdout.splitlines()[-1]) | {"kernels": len(ours), "spilled": spilled}


@pytest.mark.parametrize("depth", [40, 100])
def test_kernels_move_half_of_the_bytes(depth):
    ours, plain = (step(f"densenet_bc_k12_d{depth}", 512, block) for block in ("kernels", "xla"))
    assert ours["mb_an_image"] <= 60
    assert ours["us"] <= 0.6 * plain["us"]


def test_densenet121_moves_half_of_the_bytes():
    assert step("densenet121", 256, "kernels")["mb_an_image"] <= 220


@pytest.mark.parametrize(
    "case", [("densenet_bc_k12_d40", 512), ("densenet_bc_k12_d100", 512), ("densenet121", 256)]
)
def test_nothing_is_spilled_or_copied(case):
    found = step(*case, "kernels")
    layers = {"densenet_bc_k12_d40": 18, "densenet_bc_k12_d100": 48, "densenet121": 58}[case[0]]
    # Two kernels forward and three backward in each layer; XLA merges equal ones.
    assert 0 < found["kernels"] <= 5 * layers
    assert found["spilled"] == 0
    assert found["largest_copy"] < 2  # No copy of feature maps, which have at least 2 dimensions.


def test_memory_is_linear_in_depth():
    depths = (40, 100, 160)
    ours, concat = (
        [step(f"densenet_bc_k12_d{depth}", 64, block)["temp_bytes"] for depth in depths]
        for block in ("kernels", "xla")
    )
    first, second = ours[1] - ours[0], ours[2] - ours[1]
    assert first == pytest.approx(second, rel=0.1)
    assert all(a <= b for a, b in zip(ours, concat, strict=True))
