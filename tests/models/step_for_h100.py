"""Compiles a training step in bfloat16 for an H100 that need not exist; prints its cost as JSON.

    python step_for_h100.py NETWORK BATCH_SIZE BLOCK

The environment must be that of the target, see `targets.Target.environment`. With
TF_CPP_VMODULE=subprocess_compilation=5 XLA also writes the registers of each kernel to stderr.
"""

import json
import sys

from densenet_jax.analysis import plan as planning
from densenet_jax.analysis.hlo import Program
from densenet_jax.analysis.roofline import estimate
from densenet_jax.analysis.targets import find_target
from densenet_jax.train.compiler import memory_bytes
from experiments import synthetic


def main(network: str, batch_size: str, block: str) -> None:
    config = synthetic.get_config(network)
    config.update(batch_size=int(batch_size), dtype="bfloat16", steps_per_dispatch=4)
    config.model.block = block
    target = find_target("h100")
    compiled = planning._compile(planning._trainer(config, target))
    assert compiled, "the compiler ran out of memory"
    text = compiled.as_text()
    cost = estimate(text, target, config.batch_size, floor_bytes=1, floor_operations=1)
    copies = [i.arrays[0].dims for i, _, _ in Program(text).step() if i.opcode.startswith("copy")]
    found = {
        "us": cost["times"]["captured"]["us"],
        "mb_an_image": cost["mb_an_image"],
        "temp_bytes": memory_bytes(compiled)["temp_bytes"],
        "largest_copy": max(map(len, copies), default=0),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
