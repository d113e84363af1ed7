"""Upload to the Hugging Face hub, against a server that answers its HTTP API."""

import base64
import http.server
import json
import threading

import pytest

import densenet_jax as dj
from densenet_jax.data.pictures import CentralCrop, Preprocessing
from launch import command, export


class Hub(http.server.BaseHTTPRequestHandler):
    """Accepts every upload; keeps the files of commits in `files`."""

    files: dict[str, bytes]
    repositories: list[str]
    refuses = False

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        host = f"http://127.0.0.1:{self.server.server_port}"
        if self.refuses:
            self.answer({"error": "Invalid username or password."}, 401)
        elif self.path == "/api/repos/create":
            self.repositories.append(json.loads(body)["name"])
            self.answer({"url": f"{host}/me/birds"})
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = [
                {"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths
            ]
            self.answer({"files": modes})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            commit = {"commitUrl": f"{host}/me/birds/commit/abc", "commitOid": "abc"}
            self.answer(commit | {"success": True})
        else:  # Such as /api/validate-yaml.
            self.answer({"errors": [], "warnings": []})

    def do_GET(self):
        self.answer({"id": "me/birds", "sha": "0" * 40, "siblings": []})

    def answer(self, value, status=200):
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(monkeypatch):
    handler = type("Handler", (Hub,), {"files": {}, "repositories": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield handler
        server.shutdown()


def push(capsys, run, target):
    status = command.run(export.main, ["--weights", str(run), "--push", target])
    return status, *capsys.readouterr()


def test_an_uploaded_network_can_be_used(hub, finished_run, tmp_path, capsys):
    status, output, errors = push(capsys, finished_run, "hf:me/birds")
    assert status == 0, errors
    assert f"uploaded {finished_run} to " in output and "/me/birds" in output
    assert hub.repositories == ["birds"]
    assert set(hub.files) == {"model.safetensors", "config.json", "README.md"}
    for name, content in hub.files.items():
        (tmp_path / name).write_bytes(content)
    found, expected = dj.load(tmp_path), dj.load(finished_run)
    ours, theirs = dj.weights.to_torch(found), dj.weights.to_torch(expected)
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert found.config == expected.config
    assert found.preprocessing.crop == expected.preprocessing.crop == CentralCrop(8, 8, "bicubic")
    assert found.preprocessing.mean == pytest.approx(expected.preprocessing.mean)


def test_a_refusal(hub, finished_run, capsys):
    hub.refuses = True
    status, _, errors = push(capsys, finished_run, "hf:me/birds")
    assert status == 2 and errors.count("\n") == 1
    assert "cannot upload to hf:me/birds (" in errors and "`hf auth login`" in errors


@pytest.mark.parametrize("target", ["me/birds", "hf:birds", "hf:a/b/c"])
def test_other_targets(hub, finished_run, capsys, target):
    status, _, errors = push(capsys, finished_run, target)
    assert status == 2 and f"--push is {target!r}: give hf:USER/NAME" in errors


def test_a_hub_that_cannot_be_reached(finished_run, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    status, _, errors = push(capsys, finished_run, "hf:me/birds")
    assert status == 2 and errors.count("\n") == 1 and "cannot upload to hf:me/birds" in errors


def test_how_a_network_was_trained_is_not_part_of_its_config(tmp_path):
    model = dj.create_model("densenet_bc_k4_d10", num_classes=3, remat="none")
    model.preprocessing = Preprocessing(CentralCrop(40, 32))
    export.write_repository(tmp_path, model, "runs/a", "mit")
    arguments = json.loads((tmp_path / "config.json").read_text())["model_args"]
    assert arguments == {"num_classes": 3}
