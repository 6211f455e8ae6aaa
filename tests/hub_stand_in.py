"""A hub on the loopback interface that speaks as much as huggingface-hub asks for.

Repositories are made, written to by commits (small files in the commit, weights by the LFS
protocol), listed and read by branch or commit, with ranges. Connections can be made to break off.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_writer"


@dataclass
class Repository:
    """Commits with all their files, and branches that name commits."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    gated: bool = False

    def commit(self, branch: str, files: Mapping[str, bytes]) -> str:
        before = self.branches.get(branch, "")
        digest = hashlib.sha1(f"{before}{branch}{len(self.commits)}".encode()).hexdigest()
        self.commits[digest] = dict(files)
        self.branches[branch] = digest
        return digest

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commit = self.branches.get(revision, revision)
        return None if commit not in self.commits else (commit, self.commits[commit])


class Hub:
    """The state of the stand-in, and what was asked of it."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, str]] = []  # method, path, range
        # Bytes after which a connection breaks off, by name of the file; how often.
        self.breaks: dict[str, list[int]] = {}
        self.sums: dict[str, str] = {}  # what is said of a file in place of its sum
        self.address = ""

    def put(self, repository: str, files: Mapping[str, bytes], branch: str = "main") -> str:
        repo = self.repositories.setdefault(repository, Repository())
        found = repo.files(branch)
        return repo.commit(branch, {**(found[1] if found else {}), **files})

    def downloads(self, pattern: str = "*") -> list[tuple[str, str, str]]:
        return [a for a in self.asked if a[0] == "GET" and fnmatch(a[1], f"*/resolve/*/{pattern}")]


def is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".pth", ".pt"))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, status: int, value: Any = None, **headers: str) -> None:
        data = b"" if value is None else json.dumps(value).encode()
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _may_write(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        status = 403 if self.headers.get("Authorization") else 401
        self._answer(status, {"error": "no"})
        return False

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append((self.command, path, self.headers.get("Range", "")))
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(*match.groups())
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            if found := self._files(match[1], match[2] or "main"):
                commit, files = found
                names = [{"rfilename": name} for name in files]
                self._answer(200, {"id": match[1], "sha": commit, "siblings": names})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path):
            if found := self._files(match[1], match[2]):
                self._answer(200, [_entry(name, data) for name, data in found[1].items()])
        else:
            self._answer(404, {"error": "not here"})

    def _files(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        repo = self.hub.repositories.get(repository)
        if repo is None:
            self._answer(401, {"error": "no"}, X_Error_Code="RepoNotFound")
        elif repo.gated:
            self._answer(403, {"error": "ask"}, X_Error_Code="GatedRepo")
        elif (found := repo.files(revision)) is None:
            self._answer(404, {"error": "no"}, X_Error_Code="RevisionNotFound")
        else:
            return found
        return None

    def _resolve(self, repository: str, revision: str, name: str) -> None:
        if (found := self._files(repository, revision)) is None:
            return
        commit, files = found
        if name not in files:
            self._answer(404, {"error": "no"}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            return
        data = files[name]
        etag = self.hub.sums.get(name) or (sha256(data) if is_large(name) else _blob(data))
        start = 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(match[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.breaks.get(name):
            self.wfile.write(data[start : start + self.hub.breaks[name].pop(0)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)
        else:
            self.wfile.write(data[start:])

    def do_PUT(self) -> None:
        self.hub.objects[self.path.rpartition("/")[2]] = self._body()
        self._answer(200)

    def do_POST(self) -> None:
        path, body = unquote(urlsplit(self.path).path), self._body()
        self.hub.asked.append(("POST", path, ""))
        if path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif self._may_write():
            self._write(path, body)

    def _write(self, path: str, body: bytes) -> None:
        hub = self.hub
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            if name in hub.repositories:
                self._answer(409, {"error": "there", "url": f"{hub.address}/{name}"})
                return
            hub.put(name, {".gitattributes": b""})
            self._answer(200, {"url": f"{hub.address}/{name}"})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/([^/]+)", path):
            repo = hub.repositories[match[1]]
            there = match[2] in repo.branches
            repo.branches.setdefault(match[2], repo.branches["main"])
            self._answer(409 if there else 200, {"error": "there"} if there else {})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", path):
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if is_large(one["path"]) else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        elif re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            objects = [
                {**one, "actions": {"upload": {"href": f"{hub.address}/objects/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", path):
            repo = hub.repositories[match[1]]
            files = dict(repo.files(match[2])[1])
            for line in body.splitlines():
                change = json.loads(line)
                value = change["value"]
                if change["key"] == "deletedFile":
                    files.pop(value["path"], None)
                elif change["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif change["key"] == "lfsFile":
                    files[value["path"]] = hub.objects[value["oid"]]
            commit = repo.commit(match[2], files)
            url = f"{hub.address}/{match[1]}/commit/{commit}"
            self._answer(200, {"commitUrl": url, "commitOid": commit, "success": True})
        else:
            self._answer(404, {"error": "not here"})


def _entry(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": _blob(data)}
    if is_large(name):
        entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 134}
    return entry


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub without repositories, while the block runs."""
    hub = Hub()
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
