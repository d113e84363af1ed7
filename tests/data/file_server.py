"""An HTTP server on the loopback interface that serves files, and fails as it is told."""

import contextlib
import hashlib
import http.server
import threading
import time

from densenet_jax.data import download, registry

SLOW_SECONDS = 0.4


class FileServer(http.server.ThreadingHTTPServer):
    """A server with a record of requests.

    Attributes:
      files: content of each file name.
      faults: what to do with the next requests, in order; further requests are served well.
      requests: (file name, Range header or None, number of bytes sent) of each request.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.faults, self.requests = {}, [], []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/sets"

    def published(self):
        """Returns the entries of a registry for the files, with their true sizes and digests."""
        return [
            registry.PublishedFile(
                f"{self.url}/{name}", len(data), hashlib.sha256(data).hexdigest()
            )
            for name, data in self.files.items()
        ]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.close_connection = True
        name = self.path.rpartition("/")[2]
        fault = self.server.faults.pop(0) if self.server.faults else ""
        wanted = self.headers.get("Range")
        data = self.server.files.get(name)
        self.sent = 0
        if data is None:
            fault = 404
        if isinstance(fault, int):
            self.send_error(fault)
        elif fault == "silent":
            time.sleep(SLOW_SECONDS)
        elif fault != "hang up":
            self._send(data, wanted, fault)
        self.server.requests.append((name, wanted, self.sent))

    def _send(self, data, wanted, fault):
        size = len(data)
        if fault == "wrong bytes":
            data = bytes(size)
        if fault == "longer":
            data += b"more"
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if fault == "ignore range":
            start = 0
        body = data[start:]
        self.send_response(206 if start else 200)
        if start:
            first = 0 if fault == "wrong range" else start
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        if fault == "longer without length":
            body += b"more"
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "cut":
            body = body[: len(body) // 2]
        with contextlib.suppress(OSError):  # The client has enough.
            if fault == "slow":
                for i in range(0, len(body), len(body) // 4):
                    time.sleep(SLOW_SECONDS / 4)
                    self._write(body[i : i + len(body) // 4])
            elif fault == "stall":
                self._write(body[: len(body) // 2])
                time.sleep(SLOW_SECONDS)
            else:
                self._write(body)

    def _write(self, data):
        self.wfile.write(data)
        self.wfile.flush()
        self.sent += len(data)


@contextlib.contextmanager
def serving(monkeypatch, files):
    """Starts a server of `files`, whose contents become the registry of every set."""
    with FileServer() as server:
        server.files.update(files)
        published = server.published()
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(download, "RETRY_SECONDS", (0.01, 0.02, 0.03))
        monkeypatch.setattr(registry, "published_files", lambda name: published)
        monkeypatch.setattr(registry, "_MIRRORS", {})
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
