from flax import nnx

from densenet_jax.models.settings import NetworkConfig

__all__ = ["NetworkConfig", "Network"]
Network = nnx.Module
