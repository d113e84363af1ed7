"""Tests `python -m launch.benchmark augment`: policies of augmentation and their peers."""

import pytest

from densenet_jax.errors import InputError
from launch.benchmark import __main__ as benchmark
from launch.benchmark import augmentation


@pytest.mark.slow
def test_each_policy_is_timed(capsys, monkeypatch):
    monkeypatch.setattr(augmentation, "SIDE", 16)
    benchmark.main(["augment", "--against=", "--batch_size=2", "--rounds=1"])
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "batches of 2: ms of CPU time per image"
    assert [line.rpartition(" ")[0].strip() for line in lines] == [
        "ours, RandAugment",
        "ours, TrivialAugment",
    ]
    assert all(float(line.split()[-1]) > 0 for line in lines)


@pytest.mark.slow
def test_peers_are_timed(capsys, monkeypatch):
    pytest.importorskip("timm")
    pytest.importorskip("torchvision")
    monkeypatch.setattr(augmentation, "SIDE", 16)
    benchmark.main(["augment", "--batch_size=8", "--rounds=1"])
    output = capsys.readouterr().out
    assert "\ntimm, RandAugment " in output and "\ntorchvision, TrivialAugment " in output


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--against=dali", "there is no peer 'dali'"),
        ("--rounds=0", "--rounds is 0"),
        ("--batch_size=0", "--batch_size is 0"),
    ],
)
def test_mistakes_in_flags_are_errors(flag, words):
    with pytest.raises(InputError, match=words):
        benchmark.main(["augment", "--against=", flag])
