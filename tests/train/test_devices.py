"""Results do not depend on the number of devices and processes."""

import json

import numpy as np
import pytest
import small
from twenty_steps import STEPS

from densenet_jax.data.batches import epoch_order
from densenet_jax.errors import PREEMPTED_STATUS
from densenet_jax.train.fit import fit
from densenet_jax.train.record import RunDirectory

TWENTY_STEPS = "tests/train/twenty_steps.py"
STOPPED_RUN = "tests/train/stopped_run.py"
FREEZING = {"freeze": "^(conv0|blocks/0/0/norm1)/", "freeze_epochs": 1, "data.holdout": 100}
FREEZING |= {"learning_rate_schedule": "plateau", "plateau_evaluations": 2, "eval_every_epochs": 5}
TOLERANCES = {"float64": 1e-9, "float32": 1e-4}


def start(*arguments, devices=1, **environment):
    return small.start(
        *arguments,
        JAX_ENABLE_X64="1",
        XLA_FLAGS=f"--xla_force_host_platform_device_count={devices}",
        **environment,
    )


def start_two(*arguments, devices):
    coordinator = small.free_address()
    return [start(*arguments, coordinator, process, devices=devices) for process in range(2)]


def printed(process) -> dict:
    """Waits for a process; returns the JSON object in its last line."""
    output, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


def check_losses(found, expected, rows=1):
    """Checks losses, of which `found` has the sum of every `rows` of `expected`."""
    assert found["losses"].keys() == expected["losses"].keys()
    for key, losses in found["losses"].items():
        assert len(losses) == STEPS // rows
        totals = np.reshape(expected["losses"][key], (-1, rows)).sum(1)
        np.testing.assert_allclose(losses, totals, rtol=TOLERANCES[key.split()[1]], err_msg=key)


@pytest.mark.parametrize(
    "networks", ["densenet_bc", pytest.param("densenet_bc,modern,wrn", marks=pytest.mark.slow)]
)
def test_losses_do_not_depend_on_devices_processes_or_dispatches(networks):
    """The order of Python sets does not change the losses either."""
    script = (TWENTY_STEPS, networks, "float64")
    one = printed(start(*script, 1, devices=1, PYTHONHASHSEED="1"))
    eight = printed(start(*script, 5, devices=8, PYTHONHASHSEED="2"))
    first, second = map(printed, start_two(*script, 1, devices=2))
    check_losses(eight, one, rows=5)
    assert first["losses"] == second["losses"]
    check_losses(first, one)
    # Each process has half of the batch, and both together have the whole batch.
    images = set(first["examples"]), set(second["examples"])
    assert [len(part) for part in images] == [32, 32]
    assert set.union(*images) == set(epoch_order(0, 0, 1400, 64)[0])
    # One device exchanges nothing. Eight devices add up the gradients of all parameters.
    for key, exchanged in eight["collective_bytes"].items():
        assert set(one["collective_bytes"][key].values()) == {0}
        assert exchanged["gradients"] >= 8 * eight["params"][key]
        assert exchanged["statistics"] > 0


def test_losses_with_kernels_do_not_depend_on_devices():
    script = (TWENTY_STEPS, "kernels", "float32")
    one = printed(start(*script, 1, devices=1))
    eight = printed(start(*script, 5, devices=8))
    check_losses(eight, one, rows=5)


@pytest.mark.slow
@pytest.mark.parametrize("later, more", [((4, 1), {}), ((1, 4, 1), FREEZING)])
def test_a_run_can_resume_on_other_devices(tmp_path, float64, later, more):
    """Moves a run from 2 processes of 2 devices to 1 process, with `later` devices in turn."""
    # The run is long, because two processes stop some steps after the signal.
    run = {"epochs": 60, "checkpoint_every_epochs": 60, "eval_every_epochs": 20}
    changes = small.PLAIN | run | {"dtype": "float64", "model.dropout_rate": 0.2} | more
    fit(small.config(changes), tmp_path / "alone")
    outputs = []

    def resume(processes, status=PREEMPTED_STATUS):
        for process in processes:
            output, errors = process.communicate(timeout=300)
            assert process.returncode == status, errors
            outputs.append(output)

    def script(stop_after):
        return STOPPED_RUN, tmp_path / "run", stop_after, json.dumps(changes)

    resume(start_two(*script(20), devices=2))
    for devices in later[:-1]:
        resume([start(*script(10), devices=devices)])
    resume([start(*script(0), devices=later[-1])], 0)
    resumed = ["resuming from step" in output for output in outputs]
    assert resumed == [False, False, *(True for _ in later)]
    lines, others = (RunDirectory(tmp_path / name).metrics() for name in ("run", "alone"))
    assert len(lines) == 60
    for line, other in zip(lines, others, strict=True):
        assert line == pytest.approx(other, rel=1e-9)


@pytest.mark.slow
def test_losses_on_any_number_of_devices():
    script = (TWENTY_STEPS, "densenet_bc,wrn", "float64,float32", 1)
    one = printed(start(*script))
    for devices in (2, 4, 8):
        check_losses(printed(start(*script, devices=devices)), one)
    for found in map(printed, start_two(*script, devices=2)):
        check_losses(found, one)
