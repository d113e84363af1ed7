"""The estimate of the time of a step from the text of a compiled program."""

from pathlib import Path

import jax
import pytest
import small

from densenet_jax.analysis import targets
from densenet_jax.analysis.counts import count_fused_step_io
from densenet_jax.analysis.hlo import Program, moved_bytes
from densenet_jax.analysis.plan import plan
from densenet_jax.analysis.roofline import (
    COPY_SHARE,
    PRODUCT_SHARE,
    estimate,
    kernels,
    reachable_rates,
)
from densenet_jax.models.catalog import model_config

H100 = targets.find_target("h100")
RATES = reachable_rates(H100)

DIRECTORY = Path(__file__).parent
# A loop over steps, each with ten kernels on a GPU.
GPU = (DIRECTORY / "gpu_step.hlo.txt").read_text()
# A convolution, and two fusions in an inner loop of three trips, on a TPU.
TPU = (DIRECTORY / "tpu_step.hlo.txt").read_text()
POSITIONS = 64 * 32 * 32


@pytest.fixture(scope="module")
def step():
    """The kernels of a step of `GPU` by the name of their instruction."""
    program = Program(GPU)
    names = [i.name for i, _, _ in program.step()]
    return dict(zip(names, kernels(program, RATES), strict=True))


def test_a_step_is_the_body_of_the_loop(step):
    assert list(step) == [
        *("concatenate", "conv", "gemm", "recomputed", "reduced", "sums", "updated", "gradient"),
        *("total", "last"),
    ]


def test_kernels_are_named_after_their_origin(step):
    assert {name: kernel.origin for name, kernel in step.items()} == {
        "concatenate": "forward concatenate",
        "conv": "forward 1x1 convolution",
        "gemm": "forward matrix product",
        "recomputed": "recomputed concatenate",
        "reduced": "backward reduction",
        "sums": "backward sum of gradients",
        "updated": "update element-wise",
        "gradient": "backward 1x1 kernel gradient",
        "total": "forward collective",
        "last": "update copy",
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("concatenate", 2 * POSITIONS * (24 + 12 + 36)),
        # Input, kernel and output; the scratch memory of the library does not count.
        ("conv", 2 * (POSITIONS * (36 + 48) + 48 * 36)),
        ("gemm", 2 * (64 * 4096 + 4096 * 16 + 64 * 16)),
        # Both parts of the tuple are written.
        ("reduced", 2 * POSITIONS * (36 + 36) + 4 * 36),
        # 24 of 36 channels are read in bfloat16; 12 are written in float32.
        ("sums", POSITIONS * (2 * 24 + 4 * 12)),
        # In place: ten rows are read and written, and an index is read.
        ("updated", 2 * 4 * 10 * 1000 + 4),
        ("last", 4 + 4),
    ],
)
def test_bytes_are_those_that_move(step, name, expected):
    assert step[name].bytes == pytest.approx(expected)


def test_narrow_slices_cost_whole_sectors(step):
    # Pieces of 24 bytes start at multiples of 8: two of four touch a second sector of 32 bytes.
    per_piece = 1.5 * 32
    # The pieces add up to more than the 72 bytes of a position, which are read once.
    assert 2 * per_piece > 72
    moved = POSITIONS * (72 + 4 * 12)
    assert step["sums"].traffic_us == pytest.approx(1e6 * moved / (COPY_SHARE * H100.bandwidth))
    one = GPU.replace(
        "slice={[0:64], [0:32], [0:32], [24:36]}", "slice={[0:64], [0:32], [0:32], [0:12]}"
    )
    program = Program(one)
    sums = next(found for found in program.step() if found[0].name == "sums")
    assert moved_bytes(program, *sums[:2], 32) == pytest.approx(POSITIONS * (per_piece + 4 * 12))


def test_matrix_products_take_what_their_arithmetic_takes(step):
    rate = 1e-6 * PRODUCT_SHARE * H100.peak_flops
    assert step["gemm"].product_us == pytest.approx(2 * 64 * 4096 * 16 / rate)
    # 36 channels are padded to 48, and 48 to 64.
    assert step["conv"].product_us == pytest.approx(2 * POSITIONS * 48 * 64 / rate)
    assert step["gradient"].product_us == pytest.approx(2 * POSITIONS * 64 * 64 / rate)
    as_float32 = GPU.replace("bf16[64,4096]", "f32[64,4096]").replace(
        "bf16[4096,16]", "f32[4096,16]"
    )
    (slower,) = (k for k in kernels(Program(as_float32), RATES) if k.family == "product")
    assert slower.product_us == pytest.approx(2 * step["gemm"].product_us)


def test_estimate_of_a_gpu(step):
    found = estimate(GPU, H100, 64, floor_bytes=1e6, floor_operations=0)
    assert found["kernels"] == 10 and found["collectives"] == 1 and found["cycles"] is None
    # One kernel, a convolution, a graph of five, a convolution, a collective, one kernel.
    assert found["launches"] == 1 + 1 + 1 + 1 + 1 + 1
    # A graph of eight, a collective, one kernel.
    assert found["launches_all_captured"] == 1 + 1 + 1
    assert found["mb_an_image"] == pytest.approx(sum(k.bytes for k in step.values()) / 64e6)
    assert found["floor_us"] == pytest.approx(1e6 * 64e6 / (COPY_SHARE * H100.bandwidth))
    for name, shortest in (("captured", 2), ("launched", 4.5)):
        us = sum(max(k.traffic_us, k.product_us, shortest) for k in step.values())
        assert found["times"][name] == {
            "us": pytest.approx(us),
            "images_per_second": pytest.approx(64e6 / us),
            "floor_share": pytest.approx(found["floor_us"] / us),
        }
    assert found["times"].keys() == {"captured", "launched"}
    costs = [row["us"] for row in found["origins"]]
    assert costs == sorted(costs, reverse=True) and len(costs) == 10
    assert sum(row["kernels"] for row in found["origins"]) == 10


def test_arithmetic_may_be_the_floor():
    rate = PRODUCT_SHARE * H100.peak_flops
    found = estimate(GPU, H100, 64, floor_bytes=1, floor_operations=1e9)
    assert found["floor_us"] == pytest.approx(64e15 / rate)


def test_several_gpus_share_a_batch():
    one, eight = (
        estimate(GPU, targets.find_target(name), 512, 1e6, 0) for name in ("h100", "h100-8")
    )
    assert eight["mb_an_image"] == pytest.approx(8 * one["mb_an_image"])
    assert eight["floor_us"] == pytest.approx(one["floor_us"] / 8)
    assert eight["times"]["captured"]["images_per_second"] == pytest.approx(
        one["times"]["captured"]["images_per_second"]
    )


def test_estimate_of_a_tpu():
    found = estimate(TPU, targets.find_target("tpu-v5e-1"), 8, floor_bytes=1e6, floor_operations=0)
    # The inner loop is less than half of the program, so the whole program is a step.
    assert found["cycles"] == 7000 + 10 + 3 * (100 + 50)
    # The collective has no estimate.
    assert found["kernels"] == 2 + 3 * 2 and found["collectives"] == 1
    assert found["times"] is None and found["launches"] is None
    assert [(row["origin"], row["cycles"]) for row in found["origins"]] == [
        ("backward 3x3 input gradient", 7000),
        ("update element-wise", 450),
        ("forward element-wise", 10),
    ]


def test_a_cpu_is_not_estimated():
    assert estimate(GPU, targets.find_target("cpu"), 64, 1e6, 0) is None


def test_the_floor_moves_inputs_four_times_and_outputs_twice():
    network = model_config(
        "densenet_bc_k12_d22", block_config=(1,), bottleneck=0, growth_rate=4, stem_features=8
    )
    # Stem of 8 maps, one layer of 4, a classifier of 12 features and 10 classes.
    inputs = 32 * 32 * (3 + 8) + 12
    outputs = 32 * 32 * (8 + 4) + 10
    assert count_fused_step_io(network, 32, 32) == 4 * inputs + 2 * outputs


PALLAS = """
ENTRY %main (a: bf16[4096,216]) -> (bf16[4096,48], f32[64,2,48]) {
  %a = bf16[4096,216]{1,0} parameter(0)
  ROOT %k = (bf16[4096,48]{1,0}, f32[64,2,48]{2,1,0}) custom-call(%a), custom_call_target=\
"__gpu$xla.gpu.triton", metadata={op_name="jit(f)/jvp()/pallas_call"}, backend_config={\
serialized_metadata = "{\\22moved_bytes\\22: \\22900000\\22, \\22multiply_adds\\22: \\2250\\22}"}
}
"""


def test_a_pallas_kernel_states_its_cost():
    """Its operands are wider than what it reads."""
    program = Program(PALLAS)
    (kernel,) = kernels(program, RATES)
    assert (kernel.origin, kernel.bytes) == ("forward Pallas kernel", 900000)
    assert kernel.product_us == pytest.approx(1e6 * 2 * 50 / RATES.product)


def test_a_step_is_the_outermost_loop_even_if_it_is_short():
    """Most instructions of a dispatch may be outside of its loop, to pack the train state."""
    outside = [f"  %s{i} = f32[8]{{0}} negate(%a)" for i in range(9)]
    text = "\n".join([
        "%body (c: f32[8]) -> f32[8] {",
        "  %c = f32[8]{0} parameter(0)",
        "  ROOT %n = f32[8]{0} negate(%c)",
        "}",
        "ENTRY %main (a: f32[8]) -> f32[8] {",
        "  %a = f32[8]{0} parameter(0)",
        *outside,
        '  ROOT %w = f32[8]{0} while(%a), body=%body, metadata={op_name="jit(train_steps)/while"}',
        "}",
    ])  # fmt: skip
    assert [i.name for i, _, _ in Program(text).step()] == ["n"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["h100", "tpu-v5e-4"])
def test_the_program_of_many_steps_is_estimated(name):
    """Needs the compiler of the target; `launch.plan` explains how to install it."""
    target = targets.find_target(name)
    if not target.compiler_is_installed() or jax.default_backend() != "cpu":
        pytest.skip(f"no compiler for {name} here")
    config = small.config({"data.name": "synthetic", "data.holdout": 0})
    found = plan(config, target)["estimate"]
    assert 50 < found["kernels"] < 1000
    assert any("convolution" in row["origin"] for row in found["origins"])
    assert found["cycles"] or found["times"]["captured"]["us"] > found["floor_us"]
    assert (found["collectives"] > 0) == (target.chips > 1)
