"""A web server on this machine that can break connections, and a cache of its own for every test."""

import hashlib
import http.server
import threading

import pytest


class Server:
    """Serves ``files`` (path -> bytes) with ETag and ranges.

    Attributes:
        cuts: how many bytes each of the next requests sends before its connection breaks.
        options: ``ranges``, ``length`` (tell the length), ``etag``; ``redirect`` (path -> address).
        requests: what was asked for, ``(method, path, range)``.
    """

    def __init__(self):
        self.files, self.cuts, self.requests, self.headers = {}, [], [], {}
        self.options = {"ranges": True, "length": True, "etag": True, "redirect": {}}
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.scheme = "http"

    @property
    def address(self):
        return f"{self.scheme}://localhost:{self.server.server_address[1]}"

    def start(self):
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def _handler(self):
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

            def do_HEAD(self):
                self.answer(body=False)

            def do_GET(self):
                self.answer(body=True)

            def answer(self, body):
                path, asked = self.path.partition("?")[0], self.headers.get("Range")
                outer.requests.append((self.command, path, asked))
                if path in outer.options["redirect"]:
                    self.send_response(302)
                    self.send_header("Location", outer.options["redirect"][path])
                    self.end_headers()
                    return
                if path not in outer.files:
                    self.send_error(404)
                    return
                content = outer.files[path]
                etag = f'"{hashlib.sha256(content).hexdigest()}"'
                start = 0
                if asked and outer.options["ranges"] and self.headers.get("If-Range", etag) == etag:
                    start = int(asked.removeprefix("bytes=").rstrip("-"))
                    if start >= len(content):
                        self.send_error(416)
                        return
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                if outer.options["etag"]:
                    self.send_header("ETag", etag)
                if outer.options["length"]:
                    self.send_header("Content-Length", str(len(content) - start))
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                if body:
                    end = start + outer.cuts.pop(0) if outer.cuts else len(content)
                    self.wfile.write(content[start:end])

        return Handler


@pytest.fixture
def server():
    one = Server().start()
    yield one
    one.stop()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "uad-zoo"
