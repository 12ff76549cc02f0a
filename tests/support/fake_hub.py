"""The little of the Hugging Face Hub that fetching one file takes, on this machine."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

COMMIT = "c0ffee" + 34 * "0"


@contextmanager
def fake_hub(files: Mapping[str, bytes], *, stalls: bool = False) -> Iterator[Hub]:
    """Serves ``{"owner/repo/file": content}`` at revision ``main`` and at one commit."""
    hub = Hub(files, stalls)
    thread = threading.Thread(target=hub.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.stopped.set()
        hub.server.shutdown()
        hub.server.server_close()
        thread.join()


class Hub:
    """A server; ``requests`` are the methods and paths that it was asked for."""

    def __init__(self, files: Mapping[str, bytes], stalls: bool) -> None:
        self.files = files
        self.requests: list[str] = []
        self.stopped = threading.Event()
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.answer(with_body=False)

            def do_GET(self) -> None:
                self.answer(with_body=True)

            def answer(self, with_body: bool) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                if stalls:
                    hub.stopped.wait(60)
                    return
                status, headers, body = hub.response(self.path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", headers.get("Content-Length", str(len(body))))
                self.end_headers()
                if with_body:
                    self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def _listing(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """What the hub tells of ``owner/repo`` or ``owner/repo/revision/name``."""
        owner, repo, *revision = path.split("/")
        name = f"{owner}/{repo}"
        if repo == "gated":
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        files = [file.removeprefix(f"{name}/") for file in self.files if file.startswith(f"{name}/")]
        if not files:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if revision and revision[1] not in ("main", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        told = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
        return 200, {"Content-Type": "application/json"}, json.dumps(told).encode()

    def response(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """What the real hub says, with the codes by which its library tells errors apart."""
        if path.startswith("/api/models/"):
            return self._listing(path.removeprefix("/api/models/"))
        if "/resolve/" not in path:
            return 404, {}, b""
        owner, repo, _, revision, *rest = path.strip("/").split("/")
        name = f"{owner}/{repo}"
        if repo == "gated":
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if repo == "broken":
            return 500, {}, b""
        if not any(file.startswith(f"{name}/") for file in self.files):
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if revision not in ("main", COMMIT):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        body = self.files.get(f"{name}/{'/'.join(rest)}")
        if body is None:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha256(body).hexdigest()}"'}
        if repo == "huge":
            headers |= {"X-Linked-Size": str(2**40), "X-Linked-Etag": headers["ETag"]}
        return 200, headers, body
