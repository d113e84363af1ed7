"""DenseNet in JAX/Flax: the networks, experiments and results of its two papers."""

from densenet_jax import weights
from densenet_jax.errors import InputError
from densenet_jax.models.catalog import create_model, list_models
from densenet_jax.predict import predict

__all__ = ["InputError", "create_model", "list_models", "predict", "weights"]
