"""DenseNet in JAX/Flax: the networks, experiments and results of its two papers.

>>> import jax.numpy as jnp
>>> from flax import nnx
>>> import densenet_jax as dj
>>> model = dj.create_model("densenet_bc_k4_d10", num_classes=10, rngs=nnx.Rngs(0))
>>> model(jnp.zeros((2, 32, 32, 3))).shape  # Images [batch, height, width, channels] to logits.
(2, 10)

`create_model` builds a network by the name that `list_models` returns. `weights` loads and returns
its parameters under PyTorch's names. `predict` classifies pictures. A wrong argument or file raises
`InputError`.
"""

from densenet_jax import weights
from densenet_jax.errors import InputError
from densenet_jax.models.catalog import create_model, list_models
from densenet_jax.predict import predict

__all__ = ["InputError", "create_model", "list_models", "predict", "weights"]
