from flax import nnx

from densenet_jax.models.settings import NetworkConfig

__all__ = ["Network", "NetworkConfig"]
Network = nnx.Module
