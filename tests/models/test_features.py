"""Named feature maps of networks that serve as a backbone."""

import jax
import numpy as np
import pytest
from flax import nnx

import densenet_jax as dj

IMAGENET = dict(stem="imagenet", block_config=(1, 2), num_classes=3)
RDNET = dict(stage_growth_rates=(8, 8, 8), downsampling=(1,), num_classes=3)
NETWORKS = [
    (
        "densenet_bc_k4_d10",
        IMAGENET,
        dict(stem=(8, 8), block1=(8, 12), transition1=(4, 6), block2=(4, 14), norm5=(4, 14)),
    ),
    (
        "resnet50",
        IMAGENET | dict(widths=(8, 16)),
        dict(stem=(8, 64), stage1=(8, 8), stage2=(4, 16)),
    ),
    (
        "preresnet11",
        dict(num_classes=3),
        dict(stem=(32, 16), stage1=(32, 64), stage2=(16, 128), stage3=(8, 256), norm=(8, 256)),
    ),
    ("rdnet_tiny", RDNET, dict(stem=(8, 64), stage1=(8, 88), stage2=(4, 64), stage3=(4, 56))),
]


@pytest.mark.parametrize("name, overrides, expected", NETWORKS)
def test_the_classifier_reads_the_last_maps(name, overrides, expected):
    """Expects the sizes for images of 32 x 32 pixels."""
    model = dj.create_model(name, rngs=nnx.Rngs(0), **overrides)
    images = jax.random.normal(jax.random.key(0), (2, 32, 32, 3))
    maps, logits = jax.jit(lambda x: (model.features(x), model(x)))(images)
    assert {n: x.shape for n, x in maps.items()} == {
        n: (2, side, side, channels) for n, (side, channels) in expected.items()
    }
    *_, last = expected
    averages = maps[last].mean((1, 2))
    if name.startswith("rdnet"):
        averages = model.norm(averages)
    np.testing.assert_allclose(model.classifier(averages), logits, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name, overrides, expected", NETWORKS[:1])
def test_training_a_backbone_moves_its_statistics(name, overrides, expected):
    images = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))
    states = []
    for use in ("__call__", "features"):
        model = dj.create_model(name, rngs=nnx.Rngs(0), **overrides)
        getattr(model, use)(images, train=True)
        states.append(nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))
    jax.tree.map(np.testing.assert_array_equal, *states)


def test_a_network_without_named_maps_raises():
    model = dj.create_model("nin", rngs=nnx.Rngs(0), mlpconv_widths=(4,) * 8)
    with pytest.raises(dj.InputError, match="a NIN has no named feature maps"):
        model.features(jax.numpy.zeros((1, 8, 8, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["densenet121", "resnet50"])
def test_features_are_torchvisions(name, float64):
    torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    from torchvision.models.feature_extraction import create_feature_extractor

    names = {
        "densenet121": {
            "features.pool0": "stem",
            "features.denseblock1": "block1",
            "features.transition1": "transition1",
            "features.denseblock3": "block3",
            "features.denseblock4": "block4",
        },
        "resnet50": {"maxpool": "stem", "layer1": "stage1", "layer3": "stage3", "layer4": "stage4"},
    }[name]
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None).double().eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = create_feature_extractor(theirs, names)(x)
    dtypes = dict(dtype=np.float64, param_dtype=np.float64)
    ours = dj.create_model(name, num_classes=1000, rngs=nnx.Rngs(0), **dtypes)
    dj.weights.load_torch(ours, {k: v.numpy() for k, v in theirs.state_dict().items()})
    found = ours.features(x.numpy().transpose(0, 2, 3, 1))
    for map_name, maps in expected.items():
        np.testing.assert_allclose(
            found[map_name].transpose(0, 3, 1, 2), maps.numpy(), rtol=1e-9, atol=1e-9
        )
