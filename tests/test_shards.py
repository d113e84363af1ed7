"""Weights in several safetensors files with an index, from a directory or the Hugging Face hub."""

import functools
import http.server
import json
import os
import threading

import hub_cache
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from test_pretrained import CONFIG
from test_weight_files import assert_equal

import densenet_jax as dj
from densenet_jax import hub, safetensors_files, weight_files

INDEX = "model.safetensors.index.json"


@functools.cache
def arrays():
    model = dj.create_model("densenet_bc_k4_d10", rngs=nnx.Rngs(0))
    return dj.weights.to_torch(model)


def write_shards(directory, count=3, content=None, **index):
    """Writes an index and `count` shards as huggingface_hub does, and returns the index."""
    content = arrays() if content is None else content
    places = {}
    for number in range(count):
        shard = f"model-{number + 1:05}-of-{count:05}.safetensors"
        part = {name: content[name] for name in list(content)[number::count]}
        weight_files.write(directory / shard, part)
        places |= dict.fromkeys(part, shard)
    total = sum(array.nbytes for array in content.values())
    index = {"metadata": {"total_size": total}, "weight_map": places} | index
    (directory / INDEX).write_text(json.dumps(index, indent=2))
    return directory / INDEX


def refuse(source, message, **options):
    with pytest.raises(dj.InputError, match=message) as caught:
        weight_files.read(source, **options)
    assert "\n" not in str(caught.value)


def test_shards_are_loaded(tmp_path):
    index = write_shards(tmp_path)
    assert_equal(weight_files.read(index), arrays())
    model = dj.create_model("densenet_bc_k4_d10", rngs=nnx.Rngs(1))
    dj.weights.load_torch(model, index)
    assert_equal(dj.weights.to_torch(model), arrays())
    index.rename(tmp_path / "index")  # The content decides.
    assert_equal(weight_files.read(tmp_path / "index"), arrays())


def test_shards_beside_a_description_of_their_network(tmp_path):
    network = dj.create_model(CONFIG["architecture"], num_classes=7, rngs=nnx.Rngs(0))
    index = write_shards(tmp_path, content=dj.weights.to_torch(network))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    for source in (tmp_path, index):
        assert_equal(dj.weights.to_torch(dj.load(source)), dj.weights.to_torch(network))


def test_half_precision_in_shards(tmp_path):
    content = {"a": np.arange(3, dtype=np.float16), "b": np.arange(4).astype(ml_dtypes.bfloat16)}
    assert_equal(weight_files.read(write_shards(tmp_path, 2, content)), content)


def test_missing_shards_are_named(tmp_path):
    index = write_shards(tmp_path)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    refuse(
        index,
        rf"index\.json names 1 shard missing from its directory, model-00002-of-00003\.safetensors:"
        rf" copy every shard to {tmp_path}$",
    )
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    refuse(index, r"names 3 shards missing from its directory, model-00001-of-00003\.safetensors, ")


def test_a_shard_without_its_arrays(tmp_path):
    places = {"a": "1.safetensors", "b": "1.safetensors", "c": "1.safetensors"}
    index = write_shards(tmp_path, weight_map=places)
    weight_files.write(tmp_path / "1.safetensors", {"a": np.ones(2)})
    refuse(index, r"\(its shard 1\.safetensors: it lacks b, c\): download it again")


def test_arrays_that_the_index_does_not_name_are_not_read(tmp_path):
    index = write_shards(tmp_path, weight_map={"a": "1.safetensors"})
    weight_files.write(tmp_path / "1.safetensors", {"a": np.ones(2), "b": np.ones(3)})
    assert_equal(weight_files.read(index), {"a": np.ones(2)})


@pytest.mark.parametrize(
    "content, message",
    [
        (b"<html>", r"its shard 1\.safetensors is not a safetensors file\): download"),
        (b"", r"its shard 1\.safetensors is not a safetensors file\): download"),
        (b"\xff" * 8 + b"{}", r"its shard 1\.safetensors: its header claims [\d,]+ bytes\)"),
        ((20).to_bytes(8, "little") + b'{"a": 1' + b" " * 12 + b"}", r"its shard 1\.safetensors: "),
        (None, "1.safetensors is a named pipe, not a regular file"),
    ],
)
def test_damaged_shards(tmp_path, content, message):
    index = write_shards(tmp_path, weight_map={"a": "1.safetensors"})
    if content is None:
        os.mkfifo(tmp_path / "1.safetensors")
    else:
        (tmp_path / "1.safetensors").write_bytes(content)
    refuse(index, message)


@pytest.mark.parametrize(
    "content, message",
    [
        (b'{"weight_map": {"a": "b.safetensors"', "is damaged .*: restore or remove it"),
        (b'{"weight_map": ' + b'{"a": ' * 10000, "is damaged .*: restore or remove it"),
        (b'{"weight_map": {}}', r"\(its index names no shards\): download it again"),
        (b'{"weight_map": []}', r"it begins with"),
        (b'{"metadata": {}}', r"it begins with"),
        (b'{"weight_map": {"a": 7}}', r"names the shard 7, which is not the name of a file in"),
    ],
)
def test_damaged_indices(tmp_path, content, message):
    (tmp_path / INDEX).write_bytes(content)
    refuse(tmp_path / INDEX, message)


@pytest.mark.parametrize(
    "name",
    ["../a.safetensors", "/a.safetensors", "sub/a.safetensors", "..", ".", "", "sub\\a.safetensors",
     "C:a.safetensors", "a\0.safetensors", "a\n.safetensors", "./a.safetensors", "a" * 5000 + "/b"],
)  # fmt: skip
def test_shards_elsewhere(tmp_path, name):
    inside = tmp_path / "inside"
    inside.mkdir()
    for path in (tmp_path / "a.safetensors", inside / "a.safetensors"):
        weight_files.write(path, {"a": np.ones(2)})
    index = write_shards(inside, weight_map={"a": name})
    refuse(index, "which is not the name of a file in its directory: use an index with plain file")


def test_number_of_shards(tmp_path, monkeypatch):
    index = write_shards(tmp_path, 4)
    monkeypatch.setattr(safetensors_files, "MAX_SHARDS", 4)
    assert_equal(weight_files.read(index), arrays())
    monkeypatch.setattr(safetensors_files, "MAX_SHARDS", 3)
    refuse(index, "names 4 shards, more than the limit of 3: write fewer and larger shards")


@pytest.mark.parametrize("claimed", [None, 0, "much"])
def test_bytes_of_all_shards(tmp_path, claimed):
    """The index need not tell the truth about its shards."""
    index = write_shards(tmp_path, metadata=claimed and {"total_size": claimed})
    total = sum(array.nbytes for array in arrays().values())
    assert_equal(weight_files.read(index, max_bytes=total), arrays())
    refuse(index, r"its tensors take .* bytes, more than the limit of", max_bytes=total - 1)


def test_an_index_that_claims_too_much_is_refused_before_its_shards_are_fetched(tmp_path):
    index = write_shards(tmp_path, metadata={"total_size": 2**40})
    for path in tmp_path.glob("*.safetensors"):
        path.unlink()
    refuse(index, "its tensors take 1,099,511,627,776 bytes, more than the limit of 8,589,934,592")


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the Hugging Face hub for the files in `server.directory`."""

    def do_HEAD(self):
        self.answer(with_content=False)

    def do_GET(self):
        self.answer(with_content=True)

    def answer(self, with_content):
        *_, revision, name = self.path.split("/")
        if "/resolve/" in self.path:  # The library also asks for a list of agents.
            self.server.requests.append((self.command, revision, name))
        path = self.server.directory / name
        is_known = path.exists() and revision in ("main", hub_cache.COMMIT)
        content = path.read_bytes() if is_known else b""
        self.send_response(200 if is_known else 404)
        if not is_known:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("X-Repo-Commit", hub_cache.COMMIT)
        self.send_header("ETag", f'"{name}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_content:
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server on this machine in place of the hub, for a directory that the test fills."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.directory, server.requests = tmp_path / "served", []
    server.directory.mkdir()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    url = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    yield server
    server.shutdown()
    server.server_close()


def names_asked(server):
    return {name for _, _, name in server.requests}


def test_one_file_is_downloaded(served):
    weight_files.write(served.directory / "model.safetensors", arrays())
    write_shards(served.directory)  # Not used.
    assert_equal(weight_files.read("hf:somebody/densenet"), arrays())
    assert names_asked(served) == {"model.safetensors"}


def test_shards_are_downloaded_if_there_is_no_single_file(served):
    index = write_shards(served.directory)
    assert_equal(weight_files.read("hf:somebody/densenet"), arrays())
    # The shards are those of the commit of the index.
    shards = {
        (revision, name) for _, revision, name in served.requests if name.startswith("model-")
    }
    assert shards == {
        (hub_cache.COMMIT, name) for name in json.loads(index.read_text())["weight_map"].values()
    }
    served.requests.clear()
    assert_equal(weight_files.read("hf:somebody/densenet"), arrays())
    assert served.requests == []  # All files are in the cache.


def test_a_shard_that_the_hub_lacks(served):
    write_shards(served.directory)
    (served.directory / "model-00002-of-00003.safetensors").unlink()
    refuse(
        "hf:somebody/densenet",
        r"^hf:somebody/densenet has no model-00002-of-00003\.safetensors: choose another",
    )


def test_a_repository_without_weights(served):
    refuse(
        "hf:somebody/densenet",
        r"^hf:somebody/densenet has no model\.safetensors and no model\.safetensors\.index\.json: ",
    )


def test_too_large_shards_are_not_downloaded(served):
    write_shards(served.directory, metadata={"total_size": 2**40})
    refuse("hf:somebody/densenet", "its tensors take 1,099,511,627,776 bytes")
    assert not any(name.startswith("model-") for name in names_asked(served))


def test_shards_in_the_hubs_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://127.0.0.1:1")
    snapshot = hub_cache.add_repository(tmp_path, "somebody/densenet")
    write_shards(snapshot)
    assert hub.download("hf:somebody/densenet", "model.safetensors", INDEX) == snapshot / INDEX
    assert_equal(weight_files.read("hf:somebody/densenet"), arrays())
    (snapshot / "model-00003-of-00003.safetensors").unlink()
    refuse(
        "hf:somebody/densenet",
        r"cannot be downloaded from 127\.0\.0\.1 .*: run `hf download somebody/densenet --local-",
    )
