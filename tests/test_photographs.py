"""Weights in the formats of other libraries give PyTorch's results on real photographs."""

import numpy as np
import pytest
import torch_keys
from flax import nnx
from PIL import Image
from sklearn.datasets import load_sample_images

import densenet_jax as dj
from densenet_jax.predict import logits

pytestmark = pytest.mark.slow
TORCHVISION = ["densenet121", "densenet169", "densenet201", "densenet161"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Returns two photographs of scikit-learn and, if installed, five of scikit-image."""
    arrays = dict(zip(("china", "flower"), load_sample_images().images, strict=True))
    try:
        import skimage.data
    except ImportError:
        pass
    else:
        names = ("astronaut", "camera", "chelsea", "coffee", "rocket")
        arrays |= {name: getattr(skimage.data, name)() for name in names}
    directory = tmp_path_factory.mktemp("photographs")
    paths = [directory / f"{name}.{('jpg', 'png')[i % 2]}" for i, name in enumerate(arrays)]
    for path, pixels in zip(paths, arrays.values(), strict=True):
        Image.fromarray(pixels).save(path)
    return paths


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def theirs_of(torch, network, transform, photographs):
    with torch.no_grad():
        batch = torch.stack([transform(Image.open(p).convert("RGB")) for p in photographs])
        return network(batch).numpy()


def assert_the_same(name, weights, photographs, expected):
    """Asserts logits within 1e-4 of the largest, and the same five best classes."""
    ours = dj.load(weights, name)
    options = dict(batch_size=len(photographs))
    found = np.stack(list(logits(ours, photographs, **options)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    for predictions, values in zip(dj.predict(ours, photographs, **options), expected, strict=True):
        assert [p.label for p in predictions] == np.argsort(-values)[:5].tolist()


def transform_of_torchvision():
    transforms = pytest.importorskip("torchvision.transforms")
    return transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_files(tmp_path, torch, photographs, name):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    theirs = models.get_model(name, weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    expected = theirs_of(torch, theirs, transform_of_torchvision(), photographs)
    assert_the_same(name, tmp_path / "weights.pth", photographs, expected)


@pytest.mark.parametrize(
    "rename, wrap",
    [
        (torch_keys.as_older_torchvision, lambda arrays: arrays),
        (torch_keys.as_memory_efficient, lambda arrays: {"state_dict": arrays}),
        (lambda n: torch_keys.as_mmpretrain(n, 4), lambda a: {"meta": {}, "state_dict": a}),
    ],
    ids=["older torchvision", "memory-efficient", "mmpretrain"],
)
def test_files_under_other_names(tmp_path, torch, photographs, rename, wrap):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    theirs = models.densenet121(weights=None).eval()
    arrays = {rename(key): array for key, array in theirs.state_dict().items()}
    torch.save(wrap(arrays), tmp_path / "weights.pth")
    expected = theirs_of(torch, theirs, transform_of_torchvision(), photographs)
    assert_the_same("densenet121", tmp_path / "weights.pth", photographs, expected)


@pytest.mark.parametrize(
    "name", ["densenet121.tv_in1k", "densenet121.ra_in1k", "densenet161.tv_in1k"]
)
def test_timms_files(tmp_path, torch, photographs, name):
    """Each file has separate preprocessing."""
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_file

    torch.manual_seed(0)
    theirs = timm.create_model(name, pretrained=False).eval()
    save_file(theirs.state_dict(), tmp_path / f"{name}.safetensors")
    settings = timm.data.resolve_data_config({}, model=theirs, use_test_size=True)
    expected = theirs_of(torch, theirs, timm.data.create_transform(**settings), photographs)
    architecture = name.split(".")[0]
    assert_the_same(architecture, tmp_path / f"{name}.safetensors", photographs, expected)


def test_gradients_are_torchs(torch, photographs, float64):
    """Compares the gradients of every parameter for a training step in float64.

    Gradients of the stem nearly cancel, because the next layer normalises: errors reach 1e-8 there.
    """
    import jax
    import jax.numpy as jnp
    import optax

    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    theirs = models.densenet121(weights=None).double().train()
    transform = transform_of_torchvision()
    batch = torch.stack([transform(Image.open(p).convert("RGB")) for p in photographs]).double()
    batch, labels = batch[:, :, 32:192, 32:192], torch.arange(len(photographs))
    arrays = {k: v.clone().numpy() for k, v in theirs.state_dict().items()}
    torch.nn.functional.cross_entropy(theirs(batch), labels).backward()
    ours = dj.create_model(
        "densenet121",
        num_classes=1000,
        dtype=jnp.float64,
        param_dtype=jnp.float64,
        rngs=nnx.Rngs(0),
    )
    dj.weights.load_torch(ours, arrays)
    graphdef, params, batch_stats = nnx.split(ours, nnx.Param, nnx.BatchStat)

    @jax.jit
    @jax.grad
    def gradients(params, images):
        network = nnx.merge(graphdef, params, batch_stats, copy=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(
            network(images, train=True), labels.numpy()
        )
        return losses.mean()

    found = dj.weights.to_torch(
        nnx.merge(graphdef, gradients(params, batch.numpy().transpose(0, 2, 3, 1)), batch_stats)
    )
    for key, parameter in theirs.named_parameters():
        expected = parameter.grad.numpy()
        np.testing.assert_allclose(
            found[key], expected, rtol=0, atol=1e-7 * np.abs(expected).max(), err_msg=key
        )
