"""Tests `python -m launch.benchmark input`: the stream of pictures and its peer."""

import json

import pytest

from densenet_jax.data import imagenet
from densenet_jax.errors import InputError
from launch.benchmark import __main__ as benchmark
from launch.benchmark.input_stream import write_pictures


@pytest.mark.slow
def test_benchmark_of_input(capsys):
    flags = ["--pictures=40", "--images=32", "--batch_size=16", "--rounds=1", "--cores=1"]
    benchmark.main(["input", "--against=", *flags, "--json"])
    *table, last = capsys.readouterr().out.splitlines()
    (found,) = json.loads(last)
    rates = found["images_per_second"]
    assert rates.keys() == {"ours", "ours-processes"} and all(rate > 0 for rate in rates.values())
    assert table[1].split() == ["cores", *rates]


def test_torch_reads_the_same_pictures(tmp_path):
    """The peer's images have the right types, shapes and labels."""
    torch = pytest.importorskip("torch")
    from launch.benchmark.torch_pictures import TorchPictures

    write_pictures(tmp_path, 10)
    pictures = imagenet.find(tmp_path)["train"]
    image, label = TorchPictures(pictures, colors=False)[3]
    assert image.dtype == torch.uint8 and image.shape == (224, 224, 3)
    assert label == pictures[3].label
    image, label = TorchPictures(pictures, colors=True)[3]
    assert image.dtype == torch.float32 and image.shape == (3, 224, 224)
    assert abs(image.mean()) < 3


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--cores=many"], "--cores is 'many': give numbers"),
        (["--cores=100000"], "--cores is '100000': use numbers from 1 to"),
        (["--against=dali"], "there is no contestant 'dali'"),
        (["--rounds=0"], "--rounds is 0"),
        (["--data_directory=/nowhere"], "no ImageNet in /nowhere"),
    ],
)
def test_mistakes_in_flags_of_input_are_errors(flags, words):
    with pytest.raises(InputError, match=words):
        benchmark.main(["input", "--against=", *flags])
