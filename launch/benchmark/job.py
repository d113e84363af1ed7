"""What every contestant does: the same steps of SGD on batches of the same shape."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from densenet_jax.errors import InputError, suggest
from densenet_jax.models.catalog import model_config
from densenet_jax.models.densenet import DenseNetConfig

LEARNING_RATE = 0.1
MOMENTUM = 0.9  # Nesterov's
WEIGHT_DECAY = 1e-4

DTYPES = ("float32", "bfloat16")
# Steps a turn, if none are asked for. Fewer on an accelerator would measure the start of a turn.
CPU_STEPS, ACCELERATOR_STEPS = 2, 50
# torchvision has these of the catalogue.
TORCHVISION_PEERS = ("torchvision", "torchvision-efficient")
TORCHVISION_NETWORKS = ("densenet121", "densenet161", "densenet169", "densenet201")


@dataclasses.dataclass(frozen=True)
class Job:
    """One network and how it is trained. Raises InputError for what cannot be.

    Attributes:
      model: a name of the catalogue.
      depth: instead of that in the name; for small-image networks.
      batch_size: images a step.
      dtype: "float32" or "bfloat16", of convolutions and feature maps.
      remat: what our network computes again; peers have their own ways.
      steps: steps a turn; None: `CPU_STEPS` or `ACCELERATOR_STEPS`.
      platform: where JAX runs and all contestants must run: "cpu", "gpu" or "tpu".
    """

    model: str
    depth: int | None
    batch_size: int
    dtype: str
    remat: str
    steps: int | None = None
    platform: str = "cpu"

    def __post_init__(self):
        for field in ("batch_size", "turn_steps"):
            if getattr(self, field) < 1:
                name = field.removeprefix("turn_")
                raise InputError(f"{name} is {getattr(self, field)}: it must be at least 1.")
        if self.dtype not in DTYPES:
            raise InputError(f"there is no dtype {self.dtype!r}: {suggest(self.dtype, DTYPES)}")
        if self.depth is not None and model_config(self.model).stem != "cifar":
            raise InputError(f"{self.model} comes in one depth: leave out --depths.")
        self.network.blocks  # noqa: B018  raises

    @property
    def network(self) -> DenseNetConfig:
        overrides = {} if self.depth is None else {"depth": self.depth}
        return model_config(self.model, remat=self.remat, **overrides)

    @property
    def turn_steps(self) -> int:
        """Steps a turn on the job's platform."""
        if self.steps is not None:
            return self.steps
        return CPU_STEPS if self.platform == "cpu" else ACCELERATOR_STEPS

    @property
    def image_size(self) -> int:
        return {"cifar": 32, "imagenet": 224}[self.network.stem]

    @property
    def layers(self) -> int:
        """L as the papers count it: convolutions, transitions and the linear layer."""
        network = self.network
        per_layer = 2 if network.bottleneck else 1
        return per_layer * sum(network.blocks) + len(network.blocks) + 1


class Runner(NamedTuple):
    """A network that is compiled and warm.

    Attributes:
      run: trains for a number of steps, and waits until they are done.
      compile_seconds: how long compiling took.
      memory_bytes: what a step takes, as `memory_kind` says; None if that cannot be told.
      memory_kind: what was measured.
      device: where it runs.
      peak_bytes: an accelerator's peak since the start of the process, which includes autotuning;
        None if it is not known.
    """

    run: Callable[[int], None]
    compile_seconds: float
    memory_bytes: int | None
    memory_kind: str
    device: str
    peak_bytes: int | None = None
