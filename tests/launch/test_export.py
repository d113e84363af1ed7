"""`python -m launch.export`: weights for PyTorch, and programs that need no JAX model."""

import argparse
import json

import jax
import numpy as np
import pytest
import small
from cases import slow_except
from flax import nnx

import densenet_jax as dj
from densenet_jax import weight_files
from densenet_jax.data.pictures import CentralCrop, Preprocessing
from densenet_jax.train import saved_network
from launch import command, export


def run(capsys, source, out, *arguments):
    argv = ["--weights", str(source), "--out", str(out), *arguments]
    return command.run(export.main, argv), *capsys.readouterr()


def test_exported_weights_are_equal_bit_for_bit(finished_run, tmp_path, capsys):
    out = tmp_path / "digits.safetensors"
    status, output, _ = run(capsys, finished_run, out, "--license=mit")
    assert status == 0 and f"a model card to {tmp_path / 'digits.md'}" in output
    model = saved_network.load_network(finished_run).model
    expected = dj.weights.to_torch(model)
    found = weight_files.read(out)
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])


def test_a_model_card(finished_run, tmp_path, capsys):
    run(capsys, finished_run, tmp_path / "digits.safetensors", "--license=mit")
    card = (tmp_path / "digits.md").read_text()
    assert card.startswith("---\nlicense: mit\nlibrary_name: densenet_jax\n")
    result = json.loads((finished_run / "result.json").read_text())
    assert f"{result['params']:,} parameters" in card
    assert f"| test error | {result['test_error']:.2f} % |" in card
    assert "8 x 8 pixels, 1 channel;" in card and "digits, 4 epochs, seed 0" in card
    settings = json.loads(card.split("```json")[1].split("```")[0])
    assert settings["growth_rate"] == 4 and settings["block_config"] == [1, 1]


def test_a_program_stands_alone(finished_run, tmp_path, capsys):
    out = tmp_path / "digits.stablehlo"
    out.with_suffix(".md").write_text("the card of weights of the same name")
    status, output, errors = run(capsys, finished_run, out)
    assert status == 0, errors
    assert "for cpu, cuda, tpu" in output
    program = jax.export.deserialize(bytearray(out.read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    model = saved_network.load_network(finished_run).model
    for batch in (1, 5):
        images = np.random.default_rng(batch).standard_normal((batch, 8, 8, 1)).astype(np.float32)
        # Weights are constants in both, because XLA folds constants into other values.
        expected = jax.jit(lambda images: model(images))(images)
        np.testing.assert_array_equal(program.call(images), expected)


@pytest.mark.slow
def test_onnx_gives_the_same_logits(finished_run, tmp_path, capsys):
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    out = tmp_path / "digits.onnx"
    status, output, errors = run(capsys, finished_run, out)
    assert status == 0 and errors == ""
    assert "images (batch, 8, 8, 1) to logits" in output
    session = onnxruntime.InferenceSession(out)
    (given,) = session.get_inputs()
    model = saved_network.load_network(finished_run).model
    for batch in (1, 5):
        images = np.random.default_rng(batch).standard_normal((batch, 8, 8, 1)).astype(np.float32)
        (logits,) = session.run(None, {given.name: images})
        np.testing.assert_allclose(logits, model(images), rtol=1e-4, atol=1e-5)


# These networks cover every kind of pooling and of repeated blocks.
FAMILIES = [
    ("densenet121", {}),
    ("densenet_bc_k4_d10", dict(se_ratio=2)),
    ("densenet_k4_d10", dict(dropout_rate=0.2)),
    ("resnet50", dict(block_config=(3, 3), widths=(16, 32))),
    ("rdnet_tiny", dict(stage_growth_rates=(8, 8, 8), downsampling=(1,))),
    ("preresnet29", {}),
    ("wrn16_2", {}),
    ("resnet20", dict(survival=0.5)),
    ("nin", {}),
    ("all_cnn_c", {}),
    ("highway19", {}),
    ("fractalnet21", dict(widths=(8, 8, 8, 8, 8))),
]


@pytest.mark.parametrize(("name", "overrides"), slow_except([("nin", {})], FAMILIES))
def test_onnx_of_every_family(tmp_path, name, overrides):
    pytest.importorskip("jax2onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = dj.create_model(name, num_classes=10, rngs=nnx.Rngs(0), **overrides)
    side = 64 if getattr(model.config, "stem", "") == "imagenet" or "rdnet" in name else 32
    model.preprocessing = Preprocessing(CentralCrop(side, side))
    out = tmp_path / "network.onnx"
    export._write_onnx(model, argparse.Namespace(out=out))
    session = onnxruntime.InferenceSession(out)
    images = np.random.default_rng(0).standard_normal((3, side, side, 3)).astype(np.float32)
    (logits,) = session.run(None, {session.get_inputs()[0].name: images})
    expected = np.asarray(model(images, train=False))
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    "out, words",
    [
        ("a.pb", "it must end in .safetensors, .stablehlo, .onnx"),
        ("missing/a.safetensors", "which is not a directory"),
        ("taken.safetensors", "taken.safetensors already exists"),
    ],
)
def test_mistakes(finished_run, tmp_path, capsys, out, words):
    (tmp_path / "taken.safetensors").write_text("precious")
    before = small.snapshot(tmp_path)
    status, output, errors = run(capsys, finished_run, tmp_path / out)
    assert status == 2 and output == "" and words in errors
    assert small.snapshot(tmp_path) == before


@pytest.mark.slow
def test_torchvisions_class_loads_it(tmp_path, capsys):
    torch, torchvision = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    torch.manual_seed(0)
    theirs = torchvision.models.densenet121(weights=None, num_classes=7).eval()
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    out = tmp_path / "ours.safetensors"
    flags = ["--model=densenet121", "--num_classes=7"]
    assert run(capsys, tmp_path / "theirs.pth", out, *flags)[0] == 0
    again = torchvision.models.densenet121(weights=None, num_classes=7).eval()
    arrays = weight_files.read(out)
    again.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(theirs(images), again(images))
