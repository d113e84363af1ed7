"""`launch.fetch` stores a set where configs find it, or prints one line."""

import file_server
import published_sets
import pytest

from densenet_jax.data import places, sources
from densenet_jax.errors import InputError
from launch import command, fetch

NAMES = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


@pytest.fixture
def parts():
    return published_sets.make_parts({"train": 20, "test": 10}, (28, 28, 1))


@pytest.fixture
def server(tmp_path, monkeypatch, parts):
    """Serves a small Fashion-MNIST, and sets the default directory to `tmp_path`/data."""
    published_sets.write_fashion_mnist(tmp_path / "published", parts)
    monkeypatch.setenv(places.DATA_VARIABLE, str(tmp_path / "data"))
    files = {path.name: path.read_bytes() for path in (tmp_path / "published").iterdir()}
    with file_server.serving(monkeypatch, files) as server:
        yield server


def test_configs_find_what_was_fetched(server, tmp_path, capsys, parts):
    assert command.run(fetch.main, ["fashion_mnist"]) == 0
    output, errors = capsys.readouterr()
    directory = tmp_path / "data" / "fashion_mnist"
    digests = "with the published SHA-256 digests"
    assert output == f"{directory} has all files of fashion_mnist, {digests}\n"
    assert len(errors.splitlines()) == 4 and errors.count(": 0.0 MB, checked\n") == 4
    for place in (None, str(directory)):
        found = sources.load("fashion_mnist", place)
        published_sets.assert_same(found.train, *parts["train"])
        published_sets.assert_same(found.test, *parts["test"])


def test_out_names_the_directory_of_the_files(server, tmp_path, capsys, parts):
    out = tmp_path / "out"
    assert command.run(fetch.main, ["fashion_mnist", "--out", str(out), "--url", server.url]) == 0
    assert f"; train with --config.data.directory={out}\n" in capsys.readouterr().out
    published_sets.assert_same(sources.load("fashion_mnist", str(out)).test, *parts["test"])
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "faults, status, words",
    [
        ([404], 4, "answered 404 Not Found"),
        ([503] * 4, 3, "answered 503 Service Unavailable"),
        (["wrong bytes"], 4, "another SHA-256 digest"),
    ],
)
def test_failures(server, capsys, faults, status, words):
    server.faults = faults
    assert command.run(fetch.main, ["fashion_mnist"]) == status
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: cannot download ") and words in error


@pytest.mark.parametrize(
    "argv, words",
    [
        (["fashion"], "no data set 'fashion' to download: did you mean 'fashion_mnist'?"),
        (["fashion_mnist", "--url", "mirror"], "the URL 'mirror' cannot be used"),
    ],
)
def test_mistakes(server, capsys, argv, words):
    assert command.run(fetch.main, argv) == 2
    assert words in capsys.readouterr().err


def test_no_home_directory(monkeypatch, capsys):
    for variable in (places.DATA_VARIABLE, "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", "/")
    assert command.run(fetch.main, ["svhn"]) == 2
    assert "use --out, or set DENSENET_JAX_DATA" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"svhn needs data.directory: a directory with its files"):
        sources.load("svhn")


def test_the_default_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for value, expected in (
        ("", tmp_path / "cache" / "densenet_jax" / "data"),
        ("/sets", places.Path("/sets")),
        ("~/sets", tmp_path / "sets"),
    ):
        monkeypatch.setenv(places.DATA_VARIABLE, value)
        assert places.set_directory("svhn") == expected / "svhn"


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "fashion_mnist"])
def test_a_missing_set_names_the_command(name, monkeypatch, tmp_path):
    monkeypatch.setenv(places.DATA_VARIABLE, str(tmp_path))
    (tmp_path / name).mkdir()
    (tmp_path / name / "other").touch()  # So that Debian's copy does not replace it.
    with pytest.raises(InputError, match=f"missing {tmp_path}/{name}/.*: run `python -m launch.fe"):
        sources.load(name)
    with pytest.raises(InputError, match=rf"run `python -m launch.fetch {name} --out '.*a b'`, or"):
        sources.load(name, str(tmp_path / "a b"))
