"""Dense blocks in kernels, interpreted, against their plain form."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference
import small
from cases import slow_except
from flax import nnx

import densenet_jax as dj
from densenet_jax.errors import InputError
from densenet_jax.models import forms
from densenet_jax.models.catalog import model_config
from densenet_jax.models.densenet import DenseNet
from densenet_jax.models.forms import choose_form
from densenet_jax.models.kernel_block import KernelDenseNet

# Name of a network, its settings, number of images, their size, and how many images are padding.
NETWORKS = {
    "k = 4, L = 10": ("densenet_bc_k4_d10", {}, 3, 8, 1),
    "k = 4, L = 22": ("densenet_bc_k4_d22", {}, 5, 8, 1),
    "no bottleneck, L = 7": ("densenet_k4_d7", {"stem_features": 7}, 3, 12, 0),
    "no bottleneck, L = 13": ("densenet_k4_d13", {}, 3, 12, 0),
    "DenseNet-B": ("densenet_b_k4_d16", {}, 3, 8, 0),
    "k = 32, ImageNet": ("densenet121", {"block_config": (2, 1), "num_classes": 5}, 2, 40, 0),
    "k = 48, ImageNet": ("densenet161", {"block_config": (1, 2), "num_classes": 5}, 2, 32, 1),
    "bfloat16, L = 10": ("densenet_bc_k4_d10", {}, 16, 16, 0),
    "k doubles": ("densenet_bc_k4_d16", {"growth_factor": 2}, 3, 8, 0),
}


def training_step(case: str, dtype: str, form: str):
    """Returns a function of a seed: logits, new running statistics and gradients of a step."""
    name, settings, size, image_size, padding = NETWORKS[case]
    wide = jnp.float64 if dtype == "float64" else jnp.float32
    model = dj.create_model(
        name, rngs=nnx.Rngs(0), dtype=jnp.dtype(dtype), param_dtype=wide, block=form, **settings
    )
    assert isinstance(model, KernelDenseNet) == (form == "kernels")
    graphdef, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    params, stats = map(nnx.to_pure_dict, states)
    mask = (jnp.arange(size) < size - padding).astype(wide)

    # XLA's CPU backend may keep values in float32 that the program rounds to bfloat16.
    @functools.partial(jax.jit, compiler_options={"xla_allow_excess_precision": False})
    def step(images, labels):
        def loss(params):
            merged = nnx.merge(graphdef, params, stats)
            logits = merged(images, train=True, mask=mask)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            new_stats = nnx.to_pure_dict(nnx.state(merged, nnx.BatchStat))
            return (losses * mask).sum(), (logits, new_stats)

        gradients, (logits, new_stats) = jax.grad(loss, has_aux=True)(params)
        return {"logits": logits, "statistics": new_stats, "gradients": gradients}

    def on_batch(seed: int) -> dict[str, np.ndarray]:
        batch = reference.batch(f"{case} {seed}", size, image_size, model.config.num_classes, wide)
        found = step(*batch)
        return {key: vector(tree) for key, tree in found.items()}

    return on_batch


def vector(tree) -> np.ndarray:
    return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)])


def distance(actual: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(actual - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize("case", slow_except(["k = 4, L = 10", "no bottleneck, L = 7"], NETWORKS))
def test_kernels_equal_the_plain_form(case):
    actual, expected = (training_step(case, "float32", form)(0) for form in ("kernels", "xla"))
    for key in expected:
        assert distance(actual[key], expected[key]) < 1e-5, key


@pytest.mark.parametrize(
    "case", slow_except(["bfloat16, L = 10"], ["bfloat16, L = 10", "k = 4, L = 22"])
)
def test_bfloat16_is_no_further_from_float64_than_the_plain_form(case):
    """The mean over many batches; errors of single batches differ by a tenth."""
    seeds = range(24)
    with jax.enable_x64(True):
        step = training_step(case, "float64", "xla")
        exact = [step(seed) for seed in seeds]
    errors = {}
    for form in ("kernels", "xla"):
        step = training_step(case, "bfloat16", form)
        found = [step(seed) for seed in seeds]
        errors[form] = {
            key: np.mean([distance(a[key], b[key]) for a, b in zip(found, exact, strict=True)])
            for key in exact[0]
        }
    for key, error in errors["kernels"].items():
        assert error <= errors["xla"][key], key


def test_padding_alone_gives_finite_equal_logits():
    """Its running statistics are NaN in both forms, because no image counts."""

    def logits(form):
        model = dj.create_model("densenet_k4_d7", rngs=nnx.Rngs(0), block=form)
        graphdef, state = nnx.split(model)
        images, _ = reference.batch("padding", 2, 8, 10, jnp.float32)

        @jax.jit
        def train(images):
            merged = nnx.merge(graphdef, state, copy=True)
            return merged(images, train=True, mask=jnp.zeros(2))

        return vector(train(images))

    found = logits("kernels")
    assert np.isfinite(found).all()
    assert distance(found, logits("xla")) < 1e-5


def test_second_derivatives_are_refused():
    model = dj.create_model("densenet_k4_d7", rngs=nnx.Rngs(0), block="kernels")
    graphdef, state = nnx.split(model)

    def loss(images):
        return nnx.merge(graphdef, state, copy=True)(images, train=True).sum()

    def penalty(images):
        return jnp.square(jax.grad(loss)(images)).sum()

    images = jnp.ones([2, 8, 8, 3])
    with pytest.raises(InputError, match="set block to 'xla' for derivatives of gradients"):
        jax.make_jaxpr(jax.grad(penalty))(images)


SHARED = """
import jax, numpy as np
from flax import nnx
from jax.sharding import AxisType, PartitionSpec as P
import densenet_jax as dj
from densenet_jax.errors import InputError

mesh = jax.make_mesh((2,), ("x",), axis_types=(AxisType.Auto,))
images = np.random.default_rng(0).standard_normal((6, 8, 8, 3), np.float32)
found = []
for block in ("kernels", "xla"):
    model = dj.create_model("densenet_k4_d7", rngs=nnx.Rngs(0), block=block)
    graphdef, state = nnx.split(model)
    logits = lambda images: nnx.merge(graphdef, state, copy=True)(images, train=True)
    local = jax.shard_map(logits, mesh=mesh, in_specs=P("x"), out_specs=P("x"), check_vma=False)
    with jax.set_mesh(mesh):
        found.append([jax.jit(local)(images), jax.jit(logits)(images), jax.jit(logits)(images[:3])])
for ours, plain in zip(*found):
    np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-5)
"""


def test_a_batch_may_be_shared_or_not():
    """A user's shard_map divides it, or the devices of a mesh do; 3 images stay on one device."""
    process = small.start("-c", SHARED, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def test_evaluation_uses_the_plain_form():
    def logits(form):
        model = dj.create_model("densenet_bc_k4_d10", rngs=nnx.Rngs(0), block=form)
        images, _ = reference.batch("evaluation", 2, 8, 10, jnp.float32)
        return jax.jit(lambda images: model(images))(images)

    np.testing.assert_array_equal(logits("kernels"), logits("xla"))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"connectivity": "span"}, "connectivity is span"),
        ({"connectivity": "full"}, "connectivity is full"),
        ({"post_activation": True}, "post_activation"),
        ({"dropout_rate": 0.2}, "dropout_rate is 0.2"),
        ({"se_ratio": 16}, "se_ratio is 16"),
        ({"bn_group_size": 4}, "bn_group_size is 4"),
        ({"remat": "layer"}, "remat is layer"),
        ({"dtype": jnp.float16}, "dtype is float16"),
        ({"param_dtype": jnp.float64}, "param_dtype is float64"),
        ({"growth_rate": 72, "bottleneck": 1}, "a layer has more than 64 maps"),
        ({"growth_rate": 64, "bottleneck": 5}, "a bottleneck has more than 256 maps"),
        ({"growth_factor": 8}, "a layer has more than 64 maps"),
    ],
)
def test_what_kernels_cannot_do_uses_the_plain_form(settings, reason):
    config = model_config("densenet_bc_k12_d22", block="kernels", **settings)
    found, why = choose_form(config, jax.devices()[0])
    assert (found.block, why) == ("xla", reason)
    assert dataclasses.replace(found, block="kernels") == config
    if reason != "param_dtype is float64":
        model = dj.create_model(
            "densenet_bc_k12_d10", rngs=nnx.Rngs(0), block="kernels", **settings
        )
        assert not isinstance(model, KernelDenseNet)


@dataclasses.dataclass
class Device:
    """A device that need not exist."""

    platform: str
    device_kind: str


H100 = Device("gpu", "NVIDIA H100 80GB HBM3")


@pytest.mark.parametrize(
    ("block", "device", "form", "reason"),
    [
        ("auto", H100, "xla", "kernels have not been measured to be faster on " + H100.device_kind),
        ("xla", H100, "xla", "as configured"),
        ("kernels", H100, "kernels", "as configured"),
        ("kernels", Device("tpu", "TPU v5e"), "xla", "there are no kernels for TPU v5e"),
        ("auto", Device("cpu", "cpu"), "xla", "kernels have not been measured to be faster on cpu"),
    ],
)
def test_form_follows_config_and_device(block, device, form, reason):
    config = model_config("densenet_bc_k12_d40", block=block)
    found, why = choose_form(config, device)
    assert (found.block, why) == (form, reason)


def test_auto_takes_kernels_where_they_were_measured_to_be_faster(monkeypatch):
    monkeypatch.setattr(forms, "FASTER_ON", ("H100",))
    found, reason = choose_form(model_config("densenet121"), H100)
    assert (found.block, reason) == ("kernels", f"measured to be faster on {H100.device_kind}")
    found, _ = choose_form(model_config("densenet121"), Device("gpu", "NVIDIA A100-SXM4-80GB"))
    assert found.block == "xla"


def test_a_blurred_stem_has_no_kernels():
    config, reason = choose_form(model_config("densenetblur121d", block="kernels"), H100)
    assert (config.block, reason) == ("xla", "the network is a BlurDenseNet")


def test_networks_without_dense_blocks_have_no_form():
    config = model_config("resnet110")
    assert choose_form(config, H100) == (config, "")


def test_plain_networks_do_not_import_the_kernels():
    code = "import sys, launch.train; assert 'densenet_jax.models.kernels' not in sys.modules"
    process = small.start("-c", code)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def test_both_forms_have_the_same_variables():
    names = [
        sorted(dj.weights.to_torch(dj.create_model("densenet121", rngs=nnx.Rngs(0), block=form)))
        for form in ("xla", "kernels")
    ]
    assert names[0] == names[1]
    assert isinstance(dj.create_model("densenet121", rngs=nnx.Rngs(0)), DenseNet)
