"""Weights of MONAI, torchxrayvision and CheXNet give the logits of the original networks.

    pytest -m slow tests/test_radiology_weights.py

Needs PyTorch, torchvision, MONAI and torchxrayvision. Nothing is downloaded: weights are random.
"""

import numpy as np
import pytest
import torch_keys
from flax import nnx
from numpy.random import default_rng

import densenet_jax as dj

pytestmark = pytest.mark.slow


def assert_same_logits(theirs, channels, classes, tmp_path, logits=None, checkpoint=None):
    """Compares a PyTorch network with ours, which loads a file of `torch.save`.

    Args:
      theirs: the network of PyTorch. Its parameters and statistics are replaced.
      logits: returns the logits of `theirs` for a batch; `theirs` itself by default.
      checkpoint: returns the content of the file for the state dict of `theirs`.
    """
    torch = pytest.importorskip("torch")
    rng = default_rng(0)
    for name, array in theirs.state_dict().items():
        if array.is_floating_point() and array.ndim == 1 and "op_threshs" not in name:
            values = rng.uniform(*(0.5, 1.5) if name.endswith(("weight", "var")) else (-0.2, 0.2),
                                 array.shape)  # fmt: skip
            array.copy_(torch.tensor(values))
    pictures = rng.standard_normal((2, 64, 64, channels)).astype(np.float32)
    with torch.no_grad():
        batch = torch.tensor(pictures).permute(0, 3, 1, 2).contiguous()
        expected = (logits or theirs.eval())(batch).numpy()
    assert np.std(expected) > 0.01
    state_dict = theirs.state_dict()
    torch.save(checkpoint(state_dict) if checkpoint else state_dict, tmp_path / "a.pth")
    ours = dj.create_model(
        "densenet121", num_classes=classes, in_channels=channels, rngs=nnx.Rngs(0)
    )
    dj.weights.load_torch(ours, tmp_path / "a.pth")
    found = ours(pictures, train=False)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("channels", [1, 3])
def test_monai(channels, tmp_path, caplog):
    nets = pytest.importorskip("monai.networks.nets")
    theirs = nets.DenseNet121(spatial_dims=2, in_channels=channels, out_channels=5)
    assert "features.denseblock1.denselayer1.layers.conv1.weight" in theirs.state_dict()
    assert_same_logits(theirs, channels, 5, tmp_path)
    assert caplog.messages == []


@pytest.mark.parametrize("whole", [False, True])
def test_torchxrayvision(whole, tmp_path, caplog):
    """The logits precede the sigmoid and the thresholds that the network applies at its end."""
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("torchxrayvision").models
    theirs = models.DenseNet(num_classes=18, in_channels=1, op_threshs=torch.full((18,), 0.3))
    theirs.eval()

    def logits(batch):
        return theirs.classifier(theirs.features2(batch))

    def checkpoint(state_dict):
        return theirs if whole else state_dict  # Published files hold the whole network.

    assert_same_logits(theirs, 1, 18, tmp_path, logits, checkpoint)
    *module, message = caplog.messages
    assert message.endswith("ignored op_threshs, which belong to no layer")
    assert [m.rpartition(": ")[2] for m in module] == (
        ["read the tensors of a whole module, DenseNet"] if whole else []
    )


def test_chexnet(tmp_path, caplog):
    """CheXNet in PyTorch 0.3: torchvision's network with a sigmoid, inside DataParallel."""
    torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    theirs = torchvision.models.densenet121()
    theirs.classifier = torch.nn.Sequential(torch.nn.Linear(1024, 14), torch.nn.Sigmoid())

    def logits(batch):
        return torch.logit(theirs.eval().double()(batch.double()))

    def checkpoint(state_dict):
        names = {name: torch_keys.as_older_torchvision(name) for name in state_dict}
        assert names["features.denseblock1.denselayer1.norm1.weight"].endswith(".norm.1.weight")
        prefix = "module.densenet121."
        return {
            "epoch": 5,
            "state_dict": {prefix + names[n]: array.float() for n, array in state_dict.items()},
            "best_loss": 0.1,
        }

    assert_same_logits(theirs, 3, 14, tmp_path, logits, checkpoint)
    prefix, classifier = caplog.messages
    assert prefix.endswith("names begin with 'module.densenet121.', which was removed")
    assert classifier.endswith("classifier.0 was taken for the classifier")
