"""As much of the Hugging Face Hub as fetching files and pushing them takes, on this machine."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import yaml

COMMIT = "c0ffee" + 34 * "0"
Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def fake_hub(
    files: Mapping[str, bytes],
    *,
    stalls: bool | str = False,
    fails: str = "",
    tokens: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[Hub]:
    """Serves ``{"owner/repo/file": content}`` at revision ``main`` and at one commit.

    Args:
      files: what is there in the beginning.
      stalls: whether it answers nothing, or what a path has that is never answered.
      fails: what a path has that is answered with 503.
      tokens: who may write, as ``{token: owners}``.
    """
    hub = Hub(files, stalls, fails, tokens or {})
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
    """A server.

    Attributes:
      requests: methods and paths that it was asked for.
      bodies: what came with them, in the same order.
      history: of each repository, its commits and their files, the newest last.
      private: repositories that were made private.
      headers: what the answer to a file is given beside what belongs there.
    """

    def __init__(
        self, files: Mapping[str, bytes], stalls: bool | str, fails: str, tokens: Mapping[str, Sequence[str]]
    ) -> None:
        self.requests: list[str] = []
        self.bodies: list[bytes] = []
        self.private: set[str] = set()
        self.headers: dict[str, str] = {}
        self.history: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.fails, self.stalls, self.tokens = fails, stalls, tokens
        self.stopped = threading.Event()
        self._blobs: dict[str, bytes] = {}
        for path, content in files.items():
            owner, repo, *rest = path.split("/")
            commits = self.history.setdefault(f"{owner}/{repo}", [(COMMIT, {})])
            commits[0][1]["/".join(rest)] = content
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self.answer(with_body=False)

            def do_GET(self) -> None:
                self.answer()

            def do_POST(self) -> None:
                self.answer()

            def do_PUT(self) -> None:
                self.answer()

            def answer(self, with_body: bool = True) -> None:
                sent = self._body()
                hub.requests.append(f"{self.command} {self.path}")
                hub.bodies.append(sent)
                if hub.stalls is True or (hub.stalls and hub.stalls in self.path):
                    hub.stopped.wait(60)
                    self.close_connection = True
                    return
                if hub.fails and hub.fails in self.path:
                    status, headers, body = 503, {}, b"busy"
                else:
                    token = self.headers.get("Authorization", "").removeprefix("Bearer ")
                    status, headers, body = hub.response(self.command, self.path.partition("?")[0], sent, token)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if "Content-Length" not in headers:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if with_body:
                    self.wfile.write(body)

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                whole = b""
                while size := int(self.rfile.readline(), 16):
                    whole += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return whole

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"

    def newest(self, repository: str) -> dict[str, bytes]:
        """The files of a repository now."""
        return self.history[repository][-1][1]

    @property
    def written(self) -> list[str]:
        """The requests that may change anything."""
        return [request for request in self.requests if not request.startswith(("GET", "HEAD"))]

    def response(self, method: str, path: str, body: bytes, token: str) -> Answer:
        """What the real hub says, with the codes by which its library tells errors apart."""
        if method in ("POST", "PUT"):
            return self._written(path, body, token)
        if path == "/api/whoami-v2":
            if token not in self.tokens:
                return 401, {}, json.dumps({"error": f"Invalid token {token}"}).encode()
            return _json({"type": "user", "name": self.tokens[token][0], "auth": {"accessToken": {"role": "write"}}})
        if path.startswith("/api/models/"):
            return self._listing(path.removeprefix("/api/models/"))
        if "/resolve/" not in path:
            return 404, {}, b""
        owner, repo, _, revision, *rest = path.strip("/").split("/")
        if repo == "broken":
            return 500, {}, b""
        found = self._commit(f"{owner}/{repo}", revision)
        if len(found) == 3:
            return found
        commit, files = found
        content = files.get("/".join(rest))
        if content is None:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit}, b""
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        if repo == "huge":
            headers |= {"X-Linked-Size": str(2**40), "X-Linked-Etag": headers["ETag"]}
        return 200, headers | self.headers, content

    def _commit(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | Answer:
        if name.endswith("/gated"):
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        if name not in self.history:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        commits = dict(self.history[name]) | {"main": self.newest(name)}
        if revision not in commits:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        return (self.history[name][-1][0] if revision == "main" else revision), commits[revision]

    def _listing(self, path: str) -> Answer:
        """What the hub tells of ``owner/repo`` or ``owner/repo/revision/name``."""
        owner, repo, *revision = path.split("/")
        found = self._commit(f"{owner}/{repo}", revision[1] if revision else "main")
        if len(found) == 3:
            return found
        commit, files = found
        return _json({"id": f"{owner}/{repo}", "sha": commit, "siblings": [{"rfilename": file} for file in files]})

    def _written(self, path: str, body: bytes, token: str) -> Answer:
        if path.startswith("/lfs/"):
            # By the address alone, as at a store of objects.
            if hashlib.sha256(body).hexdigest() != path.removeprefix("/lfs/"):
                return 400, {}, b""
            self._blobs[path.removeprefix("/lfs/")] = body
            return 200, {}, b""
        if path == "/api/validate-yaml":
            return self._validated(json.loads(body)["content"])
        if token not in self.tokens:
            return 401, {}, b'{"error": "Invalid credentials"}'
        if path == "/api/repos/create":
            return self._made(json.loads(body), token)
        if path.endswith(".git/info/lfs/objects/batch"):
            return self._lfs_batch(json.loads(body))
        owner, repo, action, _ = path.removeprefix("/api/models/").split("/")
        name = f"{owner}/{repo}"
        if owner not in self.tokens[token]:
            return 403, {}, b'{"error": "You have no permission to write"}'
        if name not in self.history:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if action == "preupload":
            modes = [
                {"path": file["path"], "shouldIgnore": False}
                | {"uploadMode": "lfs" if file["path"].endswith((".safetensors", ".mp4")) else "regular"}
                for file in json.loads(body)["files"]
            ]
            return _json({"files": modes})
        return self._committed(name, [json.loads(line) for line in body.splitlines()])

    def _made(self, wanted: Mapping[str, Any], token: str) -> Answer:
        owner = wanted.get("organization") or self.tokens[token][0]
        name = f"{owner}/{wanted['name']}"
        if owner not in self.tokens[token]:
            return 403, {}, b'{"error": "You have no permission to make it"}'
        if name in self.history:
            return 409, {}, b'{"error": "You already created this model repo"}'
        if wanted.get("private") or wanted.get("visibility") == "private":
            self.private.add(name)
        self.history[name] = [(_sha(name), {".gitattributes": b"*.safetensors filter=lfs\n"})]
        return _json({"url": f"{self.endpoint}/{name}", "name": name, "id": name})

    def _lfs_batch(self, wanted: Mapping[str, Any]) -> Answer:
        objects = []
        for each in wanted["objects"]:
            there = each["oid"] in self._blobs
            actions = {} if there else {"actions": {"upload": {"href": f"{self.endpoint}/lfs/{each['oid']}"}}}
            objects.append({"oid": each["oid"], "size": each["size"]} | actions)
        return _json({"transfer": "basic", "objects": objects})

    def _committed(self, name: str, lines: Sequence[Mapping[str, Any]]) -> Answer:
        newest, files = self.history[name][-1][0], dict(self.newest(name))
        header, *operations = lines
        if header["value"].get("parentCommit", newest) != newest:
            return 412, {}, b'{"error": "A commit has happened since"}'
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self._blobs[value["oid"]]
            else:
                del files[value["path"]]
        commit = _sha(f"{newest} {len(self.history[name])}")
        self.history[name].append((commit, files))
        return _json({"commitUrl": f"{self.endpoint}/{name}/commit/{commit}", "commitOid": commit})

    def _validated(self, content: str) -> Answer:
        """The real hub's rules are many; here, that there is metadata and no licence that nobody knows."""
        _, head, _ = content.split("---\n", 2)
        licence = yaml.safe_load(head).get("license")
        if not licence or not str(licence).islower():
            return _json({"errors": [{"message": '"license" must be one of [apache-2.0, ...]'}], "warnings": []}, 400)
        return _json({"errors": [], "warnings": []})


def _json(value: Any, status: int = 200) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _sha(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()
