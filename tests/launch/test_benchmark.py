"""Tests `python -m launch.benchmark`: peers equal our network, and the report is complete."""

import importlib.util
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import slow_except
from flax import nnx

import densenet_jax as dj
from densenet_jax.errors import InputError
from densenet_jax.models.catalog import model_config
from launch import command
from launch.benchmark import __main__ as benchmark
from launch.benchmark import contestants, jax_runners, prediction, torch_runners, worker
from launch.benchmark.jax_naive import NaiveDenseNet
from launch.benchmark.plot import plot_memory_and_time
from launch.benchmark.workload import Workload

TINY = "densenet_bc_k12_d10"
EFFICIENT = "torchvision-efficient"
# Networks with and without bottleneck and compression, and one with the ImageNet stem.
NETWORKS = {
    TINY: {},
    "densenet_k12_d10": {"growth_rate": 6, "block_config": (2, 1)},
    "densenet121": {"block_config": (2, 1), "growth_rate": 4},
}


def workload(**changes) -> Workload:
    settings = dict(model=TINY, depth=None, batch_size=4, dtype="float32", remat="concat", steps=1)
    return Workload(**settings | changes)


@pytest.fixture(params=slow_except(["densenet_k12_d10"], NETWORKS))
def network(request):
    """Returns a name of `NETWORKS`, its config, and random weights by PyTorch name."""
    config = model_config(request.param, **NETWORKS[request.param])
    random = np.random.default_rng(1)
    model = dj.create_model(request.param, rngs=nnx.Rngs(0), **NETWORKS[request.param])
    weights = {
        # Replaces the ones and zeros of a fresh BatchNorm, which would hide mistakes.
        name: random.uniform(0.5, 1.5, array.shape) if array.ndim == 1 else array
        for name, array in dj.weights.to_torch(model).items()
    }
    return request.param, config, weights


def batch(config):
    random = np.random.default_rng(0)
    return random.standard_normal((4, 32, 32, 3)), random.integers(0, config.num_classes, 4)


def loss_and_gradients(model: nnx.Module, config, **options):
    """Returns the training loss on `batch`, and the gradients by PyTorch name."""
    graphdef, *states = nnx.split(model, nnx.Param, nnx.BatchStat)
    # nnx.BatchNorm keeps float32 statistics whatever `param_dtype` is.
    params, statistics = jax.tree.map(jnp.float64, [nnx.to_pure_dict(state) for state in states])
    images, labels = map(jnp.asarray, batch(config))

    @jax.jit
    def both(params):
        def loss(params):
            logits = nnx.merge(graphdef, params, statistics)(images, **options)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        return jax.value_and_grad(loss)(params)

    loss, gradients = both(params)
    named = dj.weights.to_torch(nnx.merge(graphdef, gradients, statistics))
    return float(loss), {name: named[name] for name in named if "running_" not in name}


def our_loss_and_gradients(name, config, weights):
    types = dict(dtype=jnp.float64, param_dtype=jnp.float64)
    model = dj.create_model(name, rngs=nnx.Rngs(0), **types, **NETWORKS[name])
    dj.weights.load_torch(model, weights)
    return loss_and_gradients(model, config, train=True)


def assert_equal(found, expected):
    """Checks that losses and gradients are equal."""
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-10)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        np.testing.assert_allclose(found[1][name], gradient, 1e-6, 1e-10, err_msg=name)


def test_naive_network_equals_ours(network, float64):
    _, config, weights = network
    naive = NaiveDenseNet(config, dtype=jnp.float64, param_dtype=jnp.float64, rngs=nnx.Rngs(0))
    dj.weights.load_torch(naive, weights)  # Fails unless names and shapes agree.
    assert_equal(loss_and_gradients(naive, config), our_loss_and_gradients(*network))


@pytest.mark.parametrize(
    "name",
    slow_except(["densenet_k12_d40"], ["densenet_bc_k12_d100", "densenet_k12_d40", "densenet121"]),
)
def test_naive_network_has_as_many_parameters_as_ours(name):
    def params(build):
        leaves = jax.tree.leaves(nnx.state(nnx.eval_shape(build), nnx.Param))
        return sum(leaf.size for leaf in leaves)

    config = model_config(name)
    naive = params(lambda: NaiveDenseNet(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    assert naive == params(lambda: dj.create_model(name, rngs=nnx.Rngs(0)))


@pytest.mark.parametrize("checkpointed", [False, True])
def test_torch_network_equals_ours(network, checkpointed, float64):
    torch = pytest.importorskip("torch")
    from launch.benchmark.torch_densenet import TorchDenseNet

    _, config, weights = network
    model = TorchDenseNet(config, checkpointed).double()
    found = model.load_state_dict(
        {name: torch.tensor(np.asarray(array)) for name, array in weights.items()}, strict=False
    )
    assert not found.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in found.missing_keys)
    images, labels = map(torch.tensor, batch(config))
    loss = torch.nn.functional.cross_entropy(model(images.permute(0, 3, 1, 2)), labels)
    loss.backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters()}
    assert_equal((loss.item(), gradients), our_loss_and_gradients(*network))


@pytest.fixture
def broken_torch(tmp_path, monkeypatch):
    """Makes `import torch` raise MemoryError in the processes that a test starts."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "torch.py").write_text("raise MemoryError('too large\\nby far')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))


@pytest.mark.slow
def test_benchmark(tmp_path, capsys, broken_torch):
    """Two contestants are measured, one failure is reported, and all files are written."""
    out = tmp_path / "out"
    argv = ["--model", "densenet_bc_k12_d22", "--against", "jax-naive,torch", "--depths", "10"]
    argv += ["--batch_size=4", "--steps=1", "--rounds=2", "--json", "--out", str(out)]
    assert command.run(benchmark.main, argv) == 0
    captured = capsys.readouterr()
    *table, last = captured.out.splitlines()
    report = json.loads(last)
    assert report["rounds"] == 2
    assert report == json.loads((out / "benchmark.json").read_text())
    assert report["model"] == "densenet_bc_k12_d22" and report["image_size"] == 32
    assert "--depths 10" in report["command"] and report["packages"]["jax"] == jax.__version__

    *measured, failed = report["results"]
    assert failed == {"contestant": "torch", "depth": 10, "error": "MemoryError: too large"}
    assert [result["contestant"] for result in measured] == ["ours", "jax-naive"]
    for result in measured:
        assert result["depth"] == 10 and result["device"] == "cpu"
        assert len(result["round_seconds"]) == 2
        for key in ("step", "round", "compile"):
            assert np.all(np.asarray(result[f"{key}_seconds"]) > 0)
        assert result["step_milliseconds"] == 1000 * result["step_seconds"]
        assert result["images_per_second"] == pytest.approx(4 / result["step_seconds"])
        assert result["memory_bytes"] > 1e6 and result["peak_bytes"] is None
    ours, naive = measured
    assert ours["step_ratio"] == ours["memory_ratio"] == 1
    assert naive["step_ratio"] == pytest.approx(naive["step_seconds"] / ours["step_seconds"])
    assert naive["memory_ratio"] == pytest.approx(naive["memory_bytes"] / ours["memory_bytes"])

    assert table[1].split()[1:5] == ["ms/step", "from", "to", "images/s"]
    assert float(table[2].split()[2]) == pytest.approx(ours["step_milliseconds"], abs=0.006)
    assert float(table[2].split()[5]) == pytest.approx(ours["images_per_second"], abs=0.06)
    for line, name in zip(table[2:5], ("ours", "jax-naive", "torch"), strict=True):
        assert line.split()[:2] == [name, "10"]
    assert table[4].endswith("failed: MemoryError: too large")
    assert captured.err.splitlines()[:3] == [
        "ours, L=10: ready", "jax-naive, L=10: ready", "torch, L=10: MemoryError: too large"
    ]  # fmt: skip
    assert [line.split(":")[0] for line in captured.err.splitlines()[3:]] == [
        "round 1/2", "round 2/2"
    ]  # fmt: skip
    assert (out / "memory_and_time.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    picture = (out / "memory_and_time.svg").read_text()
    for words in ("jax-naive", "memory (GB)", "efficient PyTorch, published"):
        assert f"<!-- {words}" in picture
    assert "<!-- torch " not in picture


@pytest.mark.slow
def test_forms_of_the_dense_blocks_are_compared(capsys):
    argv = ["--model", TINY, "--block=kernels", "--against=xla", "--batch_size=2", "--steps=1"]
    assert command.run(benchmark.main, [*argv, "--rounds=1", "--json"]) == 0
    heading, *_, last = capsys.readouterr().out.splitlines()
    assert "remat concat, block kernels" in heading
    report = json.loads(last)
    assert report["block"] == "kernels"
    ours, xla = report["results"]
    assert (ours["contestant"], xla["contestant"]) == ("ours", "xla")
    assert ours["memory_bytes"] != xla["memory_bytes"], "the same program twice"


@pytest.mark.parametrize(("name", "block"), [("ours", "kernels"), ("xla", "xla")])
def test_form_of_the_dense_blocks_of_a_contestant(name, block, monkeypatch):
    monkeypatch.setattr(jax_runners, "ours", jax_runners.config_of)
    assert worker.prepare(name, workload(block="kernels")).model.block == block


def test_kernels_on_a_platform_without_them_are_an_error(capsys, monkeypatch):
    monkeypatch.setattr(contestants, "platform", lambda: "tpu")
    assert command.run(benchmark.main, ["--model", TINY, "--block=kernels"]) == 2
    assert capsys.readouterr().err == (
        "error: block is 'kernels', but the platform is tpu, which the kernels do not support: "
        "leave out --block\n"
    )


def test_plot_shows_all_contestants(tmp_path):
    names = ["ours", *benchmark.PEERS]
    results = [
        {"contestant": name, "depth": depth, "memory_bytes": 1e9 * i, "step_seconds": i}
        for i, name in enumerate(names, 1)
        for depth in (40, 100)
    ]
    report = dict(model="densenet121", batch_size=64, dtype="float32", remat="concat")
    plot_memory_and_time(report | {"results": results}, tmp_path)
    picture = (tmp_path / "memory_and_time.svg").read_text()
    assert all(f"<!-- {name} -->" in picture for name in names)


@pytest.mark.parametrize("steps, platform, dispatch", [(2, "cpu", 1), (50, "gpu", 50)])
def test_data_set_is_as_large_as_a_round(steps, platform, dispatch):
    config = jax_runners.config_of(workload(batch_size=513, steps=None, platform=platform))
    assert config.data.examples == 513 * steps
    assert config.steps_per_dispatch == dispatch


def test_jax_without_a_device_is_an_error(capsys, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "absent")
    assert command.run(benchmark.main, ["--model", TINY, "--against="]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: JAX cannot use any device with JAX_PLATFORMS='absent'")
    assert error.count("\n") == 1


@pytest.mark.parametrize("name, mode", torch_runners.COMPILE_MODES.items())
def test_compiled_torch_warms_up_for_three_steps(name, mode, monkeypatch):
    torch = pytest.importorskip("torch")
    calls = []

    def compile(model, mode):
        calls.append(mode)
        return lambda images: calls.append(len(images)) or model(images)

    monkeypatch.setattr(torch, "compile", compile)
    runner = torch_runners.prepare(name, workload())
    assert calls == [mode, *(3 + 1) * [4]]  # Three steps of warm-up, one to measure memory.
    assert runner.memory_bytes is None and runner.peak_bytes is None
    runner.run(2)
    assert len(calls) == 7


def test_torch_without_the_accelerator_of_jax_is_an_error(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for platform in ("gpu", "tpu"):
        with pytest.raises(InputError, match=f"JAX runs on {platform}, but this PyTorch finds"):
            torch_runners.prepare("torch", workload(platform=platform))


@pytest.mark.parametrize("name, efficient", [("torchvision", False), (EFFICIENT, True)])
def test_torchvision_efficient_rematerialises(name, efficient):
    pytest.importorskip("torchvision")
    network = torch_runners._network(name, workload(model="densenet121"))
    layer = network.features.denseblock1.denselayer1
    assert layer.memory_efficient is efficient


@pytest.mark.parametrize("package", ["torch", "torchvision"])
def test_missing_package_is_an_error(package, monkeypatch):
    if package == "torchvision":
        pytest.importorskip("torch")
    find = importlib.util.find_spec
    missing = lambda name, *rest: None if name == package else find(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", missing)
    with pytest.raises(InputError) as caught:
        torch_runners.prepare("torchvision", workload(model="densenet121"))
    assert str(caught.value) == f"{package} is not installed: pip install {package}"


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--model=densenet_bc_k12_d10o"], ["densenet_bc_k12_d10o", "_bc_k12_d100"]),
        (["--against=jax_naive"], ["there is no peer 'jax_naive'", "'jax-naive'"]),
        (["--against=torch,keras"], ["there is no peer 'keras'", "torch-checkpointed"]),
        (["--against=torchvision"], ["torchvision has no", "densenet121"]),
        ([f"--against={EFFICIENT}"], ["torchvision has no", "densenet121"]),
        (["--batch_size=-1"], ["batch_size is -1", "at least 1"]),
        (["--steps=0"], ["steps is 0", "at least 1"]),
        (["--rounds=0"], ["rounds is 0", "at least 1"]),
        (["--time_limit=0"], ["time_limit is 0", "above 0"]),
        (["--time_limit=nan"], ["time_limit is nan", "above 0"]),
        (["--dtype=float16"], ["'float16'", "bfloat16"]),
        (["--remat=all"], ["remat is 'all'", "layer"]),
        (["--block=kernel"], ["block is 'kernel'", "kernels"]),
        (["--block=kernels", "--remat=layer"], ["remat is layer", "leave out --block"]),
        (
            ["--block=kernels", "--model=densenet_bc_k72_d10"],
            ["a layer has more than 64 maps", "leave out --block"],
        ),
        (["--depths=40,41"], ["depth is 41", "40 or 46"]),
        (["--depths=40,"], ["depths is '40,'", "40,100"]),
        (["--model=nin"], ["model 'nin' has no counterpart in PyTorch", "densenet121"]),
        (["--model=resnet110", "--depths=20"], ["model 'resnet110' has no counterpart"]),
        (["--model=densenet121", "--depths=121"], ["densenet121 comes in one depth"]),
        ([f"--out={__file__}"], [f"cannot write to {__file__}"]),
    ],
)
def test_mistakes_in_flags_are_one_line_errors(capsys, flags, words):
    assert command.run(benchmark.main, ["--model", TINY, *flags]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.startswith("error: ")
    for word in words:
        assert word in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    "name, depth", [(TINY, 10), ("densenet_k12_d40", 40), ("densenet121", 121)]
)
def test_layers_are_counted_as_in_the_papers(name, depth):
    assert workload(model=name).layers == depth


def test_help_names_the_peers(capsys):
    with pytest.raises(SystemExit) as caught:
        command.run(benchmark.main, ["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(f"  {peer} " in text for peer in benchmark.PEERS)


@pytest.mark.slow
def test_benchmark_of_prediction(capfd):
    pytest.importorskip("torch")
    assert command.run(prediction.main, ["--pictures=3", "--rounds=1"]) == 0
    output, errors = capfd.readouterr()
    assert re.search(r"^ours +\d+\.\d s +\d+\.\d pictures/s +1\.00 x ours$", output, re.MULTILINE)
    assert "the same class: 3 of 3" in output
    assert "round 1/1: torch" in errors


def test_mistakes_in_flags_of_prediction_are_errors(capsys):
    assert command.run(prediction.main, ["--pictures=0"]) == 2
    assert "--pictures is 0" in capsys.readouterr().err
