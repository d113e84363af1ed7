"""Plans for hardware that is not present."""

import math

import jax
import pytest
import small

from densenet_jax.analysis import plan as planning
from densenet_jax.analysis import targets
from densenet_jax.analysis.counts import count_layer_io, count_macs
from densenet_jax.analysis.plan import (
    analyse,
    collective_bytes,
    max_batch,
    most_images_per_second,
    plan,
)
from densenet_jax.errors import InputError
from densenet_jax.models.catalog import model_config
from densenet_jax.train import feed
from experiments import synthetic
from experiments.cvpr2017 import recipes

PLAIN = small.PLAIN | {"data.holdout": 0}


def test_a_step_is_planned_without_data():
    """No CIFAR files are needed."""
    config = small.config(PLAIN | {"data.name": "cifar100"})
    found = plan(config, targets.find_target("cpu"))
    # Stem 3x3, one plain layer, a classifier of 100 classes.
    assert found["params"] == 9 * 3 * 8 + 9 * 8 * 4 + 2 * 8 + 2 * 12 + 12 * 100 + 100
    assert found["macs"] == 32 * 32 * (9 * 3 * 8 + 9 * 8 * 4) + 12 * 100
    memory = found["memory"]
    assert memory["argument_bytes"] > 50_000 * 32 * 32 * 3, "the resident set counts"
    assert memory["temp_bytes"] > 64 * 12 * 32 * 32 * 4
    assert memory["total_bytes"] < found["memory_limit_bytes"] and found["fits"]
    assert found["flops"] > 2 * 64 * found["macs"]
    assert set(found["collective_bytes"].values()) == {0} and found["estimated_cycles"] is None


@pytest.mark.parametrize(
    ("changes", "block", "reason"),
    [
        ({}, "xla", "kernels have not been measured to be faster on cpu"),
        ({"model.block": "kernels"}, "kernels", "as configured"),
    ],
)
def test_the_form_of_the_dense_blocks_is_planned(changes, block, reason):
    found = plan(small.config(PLAIN | changes), targets.find_target("cpu"))
    assert (found["block"], found["block_reason"]) == (block, reason)


@pytest.mark.parametrize(
    ("changes", "block", "reason"),
    [
        ({}, None, "depends on the device"),
        ({"model.block": "kernels"}, None, "depends on the device"),
        ({"model.block": "xla"}, "xla", "as configured"),
        ({"model.block": "kernels", "model.dropout_rate": 0.2}, "xla", "dropout_rate is 0.2"),
    ],
)
def test_without_a_device_only_the_config_decides_the_form(changes, block, reason):
    found = analyse(small.config(PLAIN | changes))
    assert (found["block"], found["block_reason"]) == (block, reason)


def test_networks_without_dense_blocks_have_no_form():
    found = analyse(synthetic.get_config("resnet110"))
    assert (found["block"], found["block_reason"]) == (None, "")


@pytest.mark.slow
def test_imagenet_is_planned_for_without_pictures():
    config = recipes.imagenet("densenet121")
    changes = {"block_config": (1,), "growth_rate": 4, "stem_features": 8, "bn_group_size": 0}
    config.update_from_flattened_dict({f"model.{k}": v for k, v in changes.items()})
    config.batch_size = 4
    found = plan(config, targets.find_target("cpu"))
    # One batch of uint8 pixels, because ImageNet is not resident. The step converts to float32.
    assert 4 * 3 * 224**2 < found["memory"]["argument_bytes"] < 8 * 3 * 224**2
    assert found["most_images_per_second"] is None, "the CPU's limits are not known"


@pytest.mark.slow
def test_no_more_images_than_arithmetic_or_memory_allow():
    config = recipes.imagenet("densenet121")
    config.dtype = "bfloat16"
    network = model_config("densenet121", num_classes=1000)
    calculating = targets.Target("", "tpu", 4, 1, peak_flops=1e12, bandwidth=1e15)
    reading = targets.Target("", "tpu", 4, 1, peak_flops=1e18, bandwidth=1e12)
    of_arithmetic = most_images_per_second(config, network, calculating)
    assert of_arithmetic == pytest.approx(4 * 1e12 / (6 * count_macs(network, 224, 224)))
    of_memory = most_images_per_second(config, network, reading)
    assert of_memory == pytest.approx(4 * 1e12 / (3 * 2 * count_layer_io(network, 224, 224)))


@pytest.mark.slow
def test_the_largest_batch_fits_and_a_somewhat_larger_one_does_not():
    config, reported = small.config(PLAIN), []
    target = targets.Target("small", "cpu", 1, 200_000_000)
    planned = plan(config, target)
    largest = max_batch(config, target, reported.append, planned)
    expected, *compilations = reported
    assert "at most 8 more compilations; the first took" in expected
    assert 1 <= len(compilations) <= 3
    assert compilations[0].startswith("compilation 1 of at most 8: a batch of ")
    assert "GB of 0.180 GB, compiled in" in compilations[0]

    def fits(batch_size):
        return plan(small.config(PLAIN | {"batch_size": batch_size}), target)["fits"]

    assert fits(largest) and not fits(int(1.05 * largest))


@pytest.mark.parametrize("start", [None, 1, 8, 64, 900, 5_000])
@pytest.mark.parametrize(("fixed", "least"), [(0, 0), (40e6, 0), (0, 150e6), (170e6, 0)])
@pytest.mark.parametrize("gives_up", [False, True])
def test_the_largest_batch_is_found_from_any_batch(start, fixed, least, gives_up, monkeypatch):
    """Memory is linear in the batch, or constant for small ones; the compiler may run out of it."""
    target = targets.Target("made up", "cpu", 1, 200_000_000)
    limit = 180e6

    def total_bytes(batch_size):
        total = max(least, fixed + 1e5 * batch_size)
        return None if gives_up and total > limit else {"total_bytes": total}

    monkeypatch.setattr(planning, "_trainer", lambda config, target: config.batch_size)
    monkeypatch.setattr(planning, "_compile", total_bytes)
    monkeypatch.setattr(planning, "total_bytes", lambda m: m["total_bytes"] if m else math.inf)
    planned = start and {
        "batch_size": start,
        "memory": total_bytes(start),
        "compile_seconds": 95.0,
    }
    reported = []
    largest = max_batch(small.config(PLAIN), target, reported.append, planned)
    assert total_bytes(largest) and total_bytes(largest)["total_bytes"] <= limit
    # Where memory is constant at first, the search may end early.
    factor = 2 if least else 1.02
    assert max(least, fixed + 1e5 * (factor * largest + 2)) > limit
    assert len(reported) <= 1 + planning.MAX_COMPILATIONS
    if planned:
        assert reported[0].endswith("at most 8 more compilations; the first took 95 s")


@pytest.mark.parametrize(
    ("name", "steps_per_dispatch", "rows"),
    [("h100", 0, 100), ("h100", 7, 7), ("cpu", 0, 1)],
)
def test_the_program_that_users_run_is_planned(name, steps_per_dispatch, rows, monkeypatch):
    """A dispatch has many steps on an accelerator; only the synthetic images take memory."""
    target = targets.Target(name, "cpu" if name == "cpu" else "cuda", 1, 2**40)
    monkeypatch.setattr(targets.Target, "devices", lambda self: jax.devices("cpu")[:1])
    monkeypatch.setattr(feed, "platform", lambda mesh: "cpu" if name == "cpu" else "gpu")
    config = small.config(
        {
            "data.name": "synthetic",
            "data.holdout": 0,
            "batch_size": 256,
            "steps_per_dispatch": steps_per_dispatch,
        }
    )
    batches = planning._trainer(config, target)._feed.example("train")
    assert batches.indices.shape == (rows, 256)
    assert batches.images.shape == (512, 32, 32, 3)
    assert config.steps_per_dispatch == steps_per_dispatch


@pytest.mark.slow
def test_no_batch_fits_where_the_network_does_not():
    assert max_batch(small.config(PLAIN), targets.Target("tiny", "cpu", 1, 100_000), print) == 0


def test_collective_bytes_are_those_of_the_results():
    of_gradients = 'metadata={op_name="jit(f)/transpose(jvp())/dot_general"}'
    program = f"""
  %all-reduce.1 = (f32[48]{{0}}, /*index=1*/f32[3,4,8]{{2,1,0}}) all-reduce(%a), {of_gradients}
  %all-reduce-start = bf16[10,10]{{1,0:T(8,128)}} all-reduce-start(%c), channel_id=2
  %x = f32[9]{{0}} add(%all-reduce.1, %y)
"""
    assert collective_bytes(program) == {
        "statistics": 2 * 100,
        "gradients": 4 * 48 + 4 * 96,
    }


@pytest.mark.parametrize("name", targets.NAMES)
def test_every_target_that_is_named_exists(name):
    target = targets.find_target(name)
    assert target.name == name and target.chips >= 1 and target.memory_bytes > 2**30


@pytest.mark.parametrize(
    "name", ["h10", "tpu-v5e-3", "tpu-v5p-1", "gpu", "tpu-h100", "h100-x", "h100-0"]
)
def test_unknown_targets_are_refused(name):
    with pytest.raises(InputError, match=f"there is no target '{name}'"):
        targets.find_target(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["h100", "tpu-v5e-1"])
def test_remat_saves_memory_on_accelerators(name):
    """Needs the compiler of the target; `launch.plan` explains how to install it."""
    target = targets.find_target(name)
    if not target.compiler_is_installed() or jax.default_backend() != "cpu":
        pytest.skip(f"no compiler for {name} here")
    temp = {
        remat: plan(small.config({"model.block_config": (12,), "model.remat": remat}), target)[
            "memory"
        ]["temp_bytes"]
        for remat in ("none", "concat")
    }
    assert temp["concat"] < 0.7 * temp["none"]
