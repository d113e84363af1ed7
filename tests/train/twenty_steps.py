"""Trains small networks for twenty steps on all devices; prints losses and traffic as JSON.

    python twenty_steps.py NETWORKS TYPES STEPS_PER_DISPATCH [COORDINATOR PROCESS]

Dropout and augmentation are on, and batch statistics are those of groups of images. NETWORKS and
TYPES are separated by commas. JAX_ENABLE_X64 must be set. With a coordinator the run has two
processes.
"""

import json
import sys

import jax
import numpy as np
import small

from densenet_jax.analysis.plan import collective_bytes
from densenet_jax.train.trainer import Trainer

STEPS = 20
GROUPS = {"batch_size": 64, "model.bn_group_size": 16, "data.trivial_augment": True}
NETWORKS = {
    "densenet_bc": {"model.block_config": (1,)},
    "modern": {
        "model.block_config": (1,),
        "model.bn_group_size": 0,
        "accumulate": 2,
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "ema_decay": 0.9,
        "data.mixup": 0.8,
        "data.cutmix": 1.0,
        "data.random_erasing": 0.25,
    },
    "wrn": {
        "model.name": "wrn16_4",
        "model.growth_rate": None,
        "model.block_config": (2,),
        "model.widths": (8,),
        "model.dropout_rate": 0.3,
    },
    "kernels": {
        "model.block_config": (1,),
        "model.block": "kernels",
        "model.dropout_rate": 0.0,
        "model.bn_group_size": 0,
    },
}


def losses(trainer: Trainer) -> list[float]:
    """Returns the sum of the losses of each dispatch."""
    state, totals, cumulative = trainer.initial_state, trainer.totals(), []
    for dispatch in trainer.epoch(0):
        if int(state.step) < STEPS:
            state, totals = trainer.train(state, totals, dispatch, 0)
            cumulative.append(float(totals.loss))
    return np.diff(cumulative, prepend=0).tolist()


def own_examples(trainer: Trainer) -> list[int]:
    """Returns the indices of the images that this process trains on in the first dispatch."""
    shards = next(trainer.epoch(0)).indices.addressable_shards
    return sorted(int(i) for shard in shards for i in np.asarray(shard.data).ravel())


def main(networks: str, dtypes: str, steps_per_dispatch: str, *processes: str) -> None:
    if processes:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(processes[0], 2, int(processes[1]))
    found = {"losses": {}, "collective_bytes": {}, "params": {}}
    for network in networks.split(","):
        for dtype in dtypes.split(","):
            changes = {"dtype": dtype, "steps_per_dispatch": int(steps_per_dispatch)}
            trainer = Trainer(small.config(GROUPS | NETWORKS[network] | changes))
            key = f"{network} {dtype}"
            found["losses"][key] = losses(trainer)
            program = trainer.compiled("train").as_text()
            found["collective_bytes"][key] = collective_bytes(program)
            found["params"][key] = trainer.params
    print(json.dumps(found | {"examples": own_examples(trainer)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
