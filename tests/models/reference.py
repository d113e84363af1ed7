"""The networks, weights and images behind the golden numbers."""

import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import densenet_jax as dj

GOLDEN = Path(__file__).parent / "golden"

# Golden file: (name and overrides of the network, batch size, image size).
NETWORKS = {
    "densenet_k12_d40": ({}, 4, 32),
    "densenet_c_k12_d40": ({"stem_features": 16}, 4, 32),
    "densenet_b_k12_d40": ({"stem_features": 16}, 4, 32),
    "densenet_bc_k12_d22": ({}, 8, 32),
    "densenet_bc_k12_d100": ({}, 4, 32),
    "densenet121": ({}, 4, 64),
}


def generator(seed: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(zlib.crc32(seed.encode())))


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the reference's tensor of a PyTorch name, in PyTorch's layout."""
    rng = generator(name)
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape)
    if name.endswith(("running_mean", "bias")):
        return 0.1 * rng.standard_normal(shape)
    if len(shape) == 1:
        return rng.uniform(0.5, 1.5, shape)
    return rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))


def batch(seed: str, size: int, image_size: int, classes: int, dtype=jnp.float64):
    rng = generator(seed)
    images = rng.standard_normal((size, 3, image_size, image_size))
    labels = rng.integers(0, classes, size)
    return jnp.asarray(images.transpose(0, 2, 3, 1), dtype), jnp.asarray(labels, jnp.int32)


def network(name: str, dtype, **overrides) -> nnx.Module:
    """Builds a network with the reference's weights."""
    model = dj.create_model(
        name, rngs=nnx.Rngs(0), dtype=dtype, param_dtype=dtype, **NETWORKS[name][0], **overrides
    )
    shapes = {key: array.shape for key, array in dj.weights.to_torch(model).items()}
    dj.weights.load_torch(model, {key: tensor(key, shape) for key, shape in shapes.items()})
    return model


def forward_and_backward(model: nnx.Module, images, labels):
    """Returns evaluation logits, training logits, loss, gradients and new running statistics."""
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, stats = nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    def loss(params):
        merged = nnx.merge(graphdef, params, stats)
        logits = merged(images, train=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), (logits, nnx.to_pure_dict(nnx.state(merged, nnx.BatchStat)))

    @jax.jit
    def both(params):
        return (
            nnx.merge(graphdef, params, stats)(images, train=False),
            jax.value_and_grad(loss, has_aux=True)(params),
        )

    eval_logits, ((value, (logits, new_stats)), grads) = both(params)
    named = dj.weights.to_torch(nnx.merge(graphdef, grads, new_stats))
    statistics = {key: named[key] for key in named if "running_" in key}
    gradients = {key: named[key] for key in named if "running_" not in key}
    return eval_logits, logits, value, gradients, statistics
