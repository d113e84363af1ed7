"""Defines what every contestant trains: the same steps of SGD on batches of the same shape."""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple

from densenet_jax.errors import InputError, suggest
from densenet_jax.models.catalog import model_config
from densenet_jax.models.densenet import DenseNetConfig
from densenet_jax.models.forms import PLATFORMS, why_not_kernels
from densenet_jax.models.remat import Remat

LEARNING_RATE = 0.1
MOMENTUM = 0.9  # Nesterov's
WEIGHT_DECAY = 1e-4

DTYPES = ("float32", "bfloat16")
# Default steps per round. Fewer on an accelerator would measure mostly the start of a round.
CPU_STEPS, ACCELERATOR_STEPS = 2, 50
TORCHVISION_PEERS = ("torchvision", "torchvision-efficient")
# The networks of the catalogue that torchvision has too.
TORCHVISION_NETWORKS = ("densenet121", "densenet161", "densenet169", "densenet201")


@dataclasses.dataclass(frozen=True)
class Workload:
    """A network and how it is trained. Raises InputError for impossible values.

    Attributes:
      model: name of a DenseNet of the catalogue.
      depth: replaces the depth in the name; only for small-image networks.
      batch_size: images per step.
      dtype: type of convolutions and feature maps, "float32" or "bfloat16".
      remat: what our network rematerialises; each peer has a fixed scheme.
      block: form of our network's dense blocks, see `forms.choose_form`.
      steps: steps per round; None: `CPU_STEPS` or `ACCELERATOR_STEPS`.
      platform: platform of JAX and of all contestants: "cpu", "gpu" or "tpu".
    """

    model: str
    depth: int | None
    batch_size: int
    dtype: str
    remat: Remat
    block: Literal["auto", "xla", "kernels"] = "auto"
    steps: int | None = None
    platform: str = "cpu"

    def __post_init__(self):
        for name, value in (("batch_size", self.batch_size), ("steps", self.steps_per_round)):
            if value < 1:
                raise InputError(f"{name} is {value}: it must be at least 1")
        if self.dtype not in DTYPES:
            raise InputError(f"there is no dtype {self.dtype!r}: {suggest(self.dtype, DTYPES)}")
        if self.depth is not None and densenet_config(self.model).stem != "cifar":
            raise InputError(f"{self.model} comes in one depth: leave out --depths")
        self.network.blocks  # noqa: B018  raises InputError for an impossible depth
        if self.block == "kernels":
            self._check_kernels()

    def _check_kernels(self) -> None:
        """Raises InputError if the kernels cannot compute our network, which would then use xla."""
        reason = why_not_kernels(self.network)
        if not reason and self.platform not in PLATFORMS:
            reason = f"the platform is {self.platform}"
        if reason:
            raise InputError(
                f"block is 'kernels', but {reason}, which the kernels do not support: leave out "
                "--block"
            )

    @property
    def network(self) -> DenseNetConfig:
        """The config of our network."""
        config = densenet_config(self.model)
        depth = config.depth if self.depth is None else self.depth
        return dataclasses.replace(config, remat=self.remat, block=self.block, depth=depth)

    @property
    def steps_per_round(self) -> int:
        """Number of steps per round on the workload's platform."""
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


def densenet_config(model: str) -> DenseNetConfig:
    """Returns the config of a DenseNet of the catalogue. Raises InputError for another network."""
    config = model_config(model)
    if not isinstance(config, DenseNetConfig):
        raise InputError(
            f"model {model!r} has no counterpart in PyTorch here: choose a DenseNet, such as "
            "densenet_bc_k12_d100 or densenet121"
        )
    return config


class Runner(NamedTuple):
    """A compiled and warm network, which runs training steps.

    Attributes:
      run: trains for a number of steps and waits until they are done.
      compile_seconds: how long compilation took.
      memory_bytes: memory of a step, see `memory_kind`; None if unknown.
      memory_kind: how `memory_bytes` was measured.
      device: name of the device.
      peak_bytes: peak of an accelerator's memory since the start of the process, which includes
        autotuning; None if unknown.
    """

    run: Callable[[int], None]
    compile_seconds: float
    memory_bytes: int | None
    memory_kind: str
    device: str
    peak_bytes: int | None = None
