"""`python -m launch.export`: weights for others, and programs that stand alone."""

import json

import jax
import numpy as np
import pytest
import small

import densenet_jax as dj
from densenet_jax import weight_files
from densenet_jax.train import trained
from launch import command, export


def run(capsys, source, out, *arguments):
    argv = ["--weights", str(source), "--out", str(out), *arguments]
    return command.run(export.main, argv), *capsys.readouterr()


def test_weights_go_out_and_in_bit_for_bit(finished_run, tmp_path, capsys):
    out = tmp_path / "digits.safetensors"
    status, output, _ = run(capsys, finished_run, out, "--license=mit")
    assert status == 0 and f"{tmp_path / 'digits.md'} describes them" in output
    model = trained.load(finished_run).model
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
    assert "8 x 8 pixels, 1 channels" in card and "digits, 4 epochs, seed 0" in card
    settings = json.loads(card.split("```json")[1].split("```")[0])
    assert settings["growth_rate"] == 4 and settings["block_config"] == [1, 1]


def test_a_program_stands_alone(finished_run, tmp_path, capsys):
    pytest.importorskip("flatbuffers")
    out = tmp_path / "digits.stablehlo"
    status, output, errors = run(capsys, finished_run, out)
    assert status == 0, errors
    assert "for cpu, cuda, tpu" in output
    program = jax.export.deserialize(bytearray(out.read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    model = trained.load(finished_run).model
    for batch in (1, 5):
        images = np.random.default_rng(batch).standard_normal((batch, 8, 8, 1)).astype(np.float32)
        # With weights that are constants there as well, as XLA works with them beforehand.
        expected = jax.jit(lambda images: model(images))(images)
        np.testing.assert_array_equal(program.call(images), expected)


@pytest.mark.parametrize(
    "out, words",
    [
        ("a.onnx", "it must end in .safetensors or .stablehlo"),
        ("missing/a.safetensors", "which is no folder"),
        ("taken.safetensors", "taken.safetensors exists"),
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
