"""`python -m launch.train`, as it is typed: what it leaves, and what it says to mistakes."""

import json
import shutil

import jax
import published_sets
import pytest
import small

from launch import command, train


def run_train(workdir, *arguments, config=small.QUICKSTART):
    """Runs the command; returns its exit status."""
    argv = ["--config", str(config), "--workdir", str(workdir), "--compile_cache=off", *arguments]
    return command.run(train.main, argv)


def refuses(capsys, workdir, *arguments, words, status=2, **options):
    """Checks that the command says `words` in one line, and starts nothing."""
    existed = workdir.exists()
    assert run_train(workdir, *arguments, **options) == status
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and captured.err.endswith("\n")
    assert "Traceback" not in captured.err
    for word in words:
        assert word in captured.err
    assert "compiled" not in captured.out
    assert workdir.exists() == existed


@pytest.fixture(scope="module")
def typed_run(finished_run, tmp_path_factory):
    """The run directory and the output of the small run, started from a command line."""
    folder = tmp_path_factory.mktemp("typed") / "run"
    process = small.start_train(folder, *small.flags())
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return folder, output


def test_a_typed_run_is_that_of_fit(typed_run, finished_run):
    folder, output = typed_run
    for name in ("config.json", "metrics.jsonl"):
        assert (folder / name).read_bytes() == (finished_run / name).read_bytes()
    result = json.loads((folder / "result.json").read_text())
    assert f"test error {result['test_error']:.2f} % after 4 epochs" in output
    assert [line.split()[1] for line in output.splitlines() if line.startswith("epoch ")] == [
        "1/4", "2/4", "3/4", "4/4"
    ]  # fmt: skip


def test_the_learning_curve_is_a_picture(typed_run):
    picture = (typed_run[0] / "learning_curve.png").read_bytes()
    assert picture.startswith(b"\x89PNG\r\n\x1a\n") and picture.endswith(b"IEND\xaeB`\x82")
    assert len(picture) > 10_000


def test_a_finished_run_says_so(typed_run, capsys):
    folder, _ = typed_run
    before = small.snapshot(folder)
    assert run_train(folder, *small.flags()) == 0
    assert "is finished: test error" in capsys.readouterr().out
    assert small.snapshot(folder) == before


@pytest.mark.parametrize(
    "flag, words",
    [
        ("--config.model.depth=41", ["depth is 41", "40 or 46"]),
        ("--config.model.compression=0", ["compression is 0", "above 0 and at most 1"]),
        ("--config.model.compression=1.5", ["compression is 1.5", "above 0 and at most 1"]),
        ("--config.model.dropout_rate=1", ["dropout_rate is 1", "below 1"]),
        ("--config.model.growth_rate=0", ["growth_rate is 0", "at least 1"]),
        ("--config.model.growth_rate=abc", ["growth_rate", "abc"]),
        ("--config.model.growthrate=24", ["growthrate", "growth_rate"]),
        ("--config.model.num_classes=5", ["num_classes", "10"]),
        ("--config.model.block_config=(2,x)", ["block_config"]),
        ("--config.seed=99999999999999999999", ["seed"]),
        ("--config.model.name=densenet_bc_k12_d10o", ["densenet_bc_k12_d10o", "_bc_k12_d100"]),
        ("--config.model.name=", ["model.name"]),
        ("--config.epoch=3", ["epoch", "epochs"]),
        ("--config.epochs=0", ["epochs is 0", "use an integer from 1 to"]),
        ("--config.epochs=many", ["epochs", "many"]),
        ("--config.batch_size=1438", ["batch_size 1438", "training set (1,437 images)"]),
        ("--config.batch_size=0", ["batch_size is 0"]),
        ("--config.learning_rate=-1", ["learning_rate is -1"]),
        ("--config.learning_rate=nan", ["learning_rate is nan"]),
        ("--config.learning_rate_drops=(0.5,1.5)", ["learning_rate_drops", "1.5"]),
        ("--config.dtype=float16", ["float16", "bfloat16"]),
        ("--config.data.name=cifar11", ["cifar11", "cifar10"]),
        ("--config.data.name=", ["data.name"]),
        ("--config.data.name=cifar10", ["python -m launch.fetch cifar10", "kriz/cifar.html"]),
        ("--config.data.holdout=1437", ["hold out 1,437 of 1,437", "data.holdout"]),
        ("--config.data.folds=1438", ["data.folds is 1,438", "use 2 to 1,437"]),
        ("--config.model.stem=imagenet", ["images", "height and width"]),
        ("--unknown=1", ["unknown"]),
        ("extra", ["unknown", "extra"]),
    ],
)
def test_mistakes_in_flags(tmp_path, capsys, flag, words):
    refuses(capsys, tmp_path / "run", flag, words=words)


@pytest.mark.skipif(jax.config.jax_enable_x64, reason="64-bit types are on")
def test_float64_needs_64_bit_types(tmp_path, capsys):
    words = ["dtype is 'float64'", "set JAX_ENABLE_X64=1"]
    refuses(capsys, tmp_path / "run", "--config.dtype=float64", words=words)


@pytest.mark.slow
def test_batch_that_the_devices_cannot_share(tmp_path):
    process = small.start_train(
        tmp_path / "run",
        "--config.batch_size=65",
        "--config.data.name=synthetic",
        XLA_FLAGS="--xla_force_host_platform_device_count=2",
    )
    output, errors = process.communicate(timeout=300)
    # Here also: the process ends with the status of the command.
    assert process.returncode == 2 and output == ""
    assert errors == (
        "error: batch_size 65 cannot be shared equally by 2 devices: use a multiple of 2\n"
    )
    assert not (tmp_path / "run").exists()


def test_missing_config_file(tmp_path, capsys):
    missing = tmp_path / "densenet.py"
    words = [f"there is no config file {missing}", "experiments/"]
    refuses(capsys, tmp_path / "run", config=missing, words=words)


@pytest.mark.parametrize("name", ["config.py", "config.txt"])
def test_file_that_is_no_config(tmp_path, capsys, name):
    path = tmp_path / name
    path.write_text("epochs = 3\n")
    refuses(capsys, tmp_path / "run", config=path, words=[str(path)])


def test_argument_for_a_config_without_one(tmp_path, capsys):
    words = ["takes no argument", "'k40'"]
    refuses(capsys, tmp_path / "run", config=f"{small.QUICKSTART}:k40", words=words)


def test_missing_data(tmp_path, capsys):
    flags = ["--config.data.name=cifar10", f"--config.data.directory={tmp_path}"]
    words = [f"missing {tmp_path}/cifar-10-binary.tar.gz", "kriz/cifar.html"]
    refuses(capsys, tmp_path / "run", *flags, words=words)


@pytest.mark.parametrize("kind", ["truncated", "wrong"])
def test_damaged_data(tmp_path, capsys, kind):
    """An archive cut short, and another set's under this one's name."""
    archive = tmp_path / "cifar-10-binary.tar.gz"
    name = "cifar10" if kind == "truncated" else "cifar100"
    parts = published_sets.make_parts({"train": 100, "test": 50})
    files = published_sets.cifar_files(name, "binary", parts)
    published_sets.write_archive(archive, "cifar-10-batches-bin", files)
    if kind == "truncated":
        archive.write_bytes(archive.read_bytes()[:-1000])
    flags = ["--config.data.name=cifar10", f"--config.data.directory={tmp_path}"]
    refuses(capsys, tmp_path / "run", *flags, words=[f"{archive} is damaged"])


def test_workdir_of_another_config(copied_run, capsys):
    before = small.snapshot(copied_run)
    words = ["another config", "seed (0 there, 7 here)"]
    refuses(capsys, copied_run, *small.flags({"seed": 7}), words=words)
    assert small.snapshot(copied_run) == before


def test_workdir_with_other_files(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("precious")
    refuses(capsys, tmp_path, words=["holds other files", "new or empty"])
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_workdir_that_is_a_file(tmp_path, capsys):
    path = tmp_path / "thesis.tex"
    path.write_text("precious")
    refuses(capsys, path, words=["is a file"])
    assert path.read_text() == "precious"


def test_workdir_inside_a_file(tmp_path, capsys):
    path = tmp_path / "thesis.tex"
    path.write_text("precious")
    refuses(capsys, path / "run", words=[str(path)])


def test_damaged_run_directory(copied_run, capsys):
    (copied_run / "config.json").write_text('{"epochs": 4,')
    refuses(capsys, copied_run, *small.flags(), words=[str(copied_run / "config.json")])


def test_failed_run_has_a_status_of_its_own(tmp_path, capsys):
    flags = small.flags({**small.PLAIN, "learning_rate": 1e30})
    assert run_train(tmp_path / "run", *flags) == 4
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "step 2 (epoch 1)" in error and "below 1e+30" in error


@pytest.mark.parametrize("argv", [["--config", str(small.QUICKSTART)], ["--workdir", "run"]])
def test_missing_arguments(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        command.run(train.main, argv)
    assert caught.value.code == 2
    assert "required" in capsys.readouterr().err


@pytest.mark.slow
def test_resumes_what_was_not_finished(copied_run, capsys):
    """Without the newest checkpoint and what came after it."""
    metrics = (copied_run / "metrics.jsonl").read_bytes()
    (copied_run / "result.json").unlink()
    shutil.rmtree(copied_run / "checkpoints" / str(4 * small.STEPS_PER_EPOCH))
    assert run_train(copied_run, *small.flags()) == 0
    assert f"resuming from step {2 * small.STEPS_PER_EPOCH}" in capsys.readouterr().out
    assert (copied_run / "metrics.jsonl").read_bytes() == metrics
