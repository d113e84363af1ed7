"""DenseNet in JAX/Flax: the networks, experiments and results of its two papers.

>>> import jax.numpy as jnp
>>> from flax import nnx
>>> import densenet_jax as dj
>>> model = dj.create_model("densenet_bc_k4_d10", num_classes=10, rngs=nnx.Rngs(0))
>>> forward = nnx.jit(lambda model, images: model(images))  # Without jit, 6 times slower to start.
>>> forward(model, jnp.zeros((2, 32, 32, 3))).shape  # Images [N, H, W, C] to logits.
(2, 10)

`create_model` builds a network by the name that `list_models` returns, with new or with published
weights. `load` loads a trained network from a run directory, a file or the Hugging Face hub.
`predict` classifies pictures, and `embed` returns their features. `weights` loads and returns
parameters under PyTorch's names. A wrong argument or file raises `InputError`.
"""

from importlib.metadata import version

from densenet_jax import weights
from densenet_jax.errors import InputError
from densenet_jax.models.catalog import list_models
from densenet_jax.predict import embed, predict
from densenet_jax.pretrained import create_model, load

__version__ = version("densenet_jax")
__all__ = [
    "InputError",
    "__version__",
    "create_model",
    "embed",
    "list_models",
    "load",
    "predict",
    "weights",
]
