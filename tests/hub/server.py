"""A local Hub: an HTTP server that implements the part of the Hub's protocol that the `huggingface_hub` client uses.

It supports accounts, repositories, branches, commits, large files (git LFS), validation of cards, trees and downloads, with
repositories in memory. Faults can be injected: responses with a given status, and dropped connections.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.repocard_data import model_index_to_eval_results

TOKEN = "hf_ThisIsNotARealTokenOfAnybody"
USER = "someone"
LARGE = (".safetensors", ".parquet", ".arrow", ".pt", ".bin", ".pth")
LICENSES = {"apache-2.0", "mit", "other", "unknown", "cc-by-4.0", "llama3"}


@dataclass
class Repository:
    """A repository's branches with their files and commits.

    Attributes:
        private: whether it was created as private.
        branches: content of every file by branch and path.
        large: paths of files uploaded as large files.
        commits: oid and message of the commits of every branch, oldest first.
        license: licence in its card's metadata, for repositories of others.
    """

    private: bool | None = None
    branches: dict[str, dict[str, bytes]] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    commits: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    license: str | None = None

    def commit(self, branch: str, message: str) -> str:
        """Record a commit; return its oid."""
        history = self.commits.setdefault(branch, [])
        oid = hashlib.sha1(f"{branch}{len(history)}{message}".encode()).hexdigest()
        history.append((oid, message))
        return oid

    def at(self, revision: str) -> tuple[str, str] | None:
        """Return the branch and newest oid of a revision, which is a branch or the newest oid of one."""
        for branch, history in self.commits.items():
            if revision in (branch, history[-1][0]):
                return branch, history[-1][0]
        return None


@dataclass
class Fault:
    """A fault to inject.

    Attributes:
        what: pattern for `METHOD /path`.
        times: number of times; negative for always.
        status: status of the response, or None to drop the connection.
        after: whether the server processes the request before it drops the connection, so that only the response is lost.
    """

    what: str
    times: int = 1
    status: int | None = 500
    after: bool = False


class LocalHub:
    """The server; as a context manager, it runs in a thread."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[str] = []
        self.validated: list[str] = []
        self.lock = threading.RLock()
        self.hooks: list[Callable[[str], None]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> LocalHub:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def model(self, name: str) -> Repository:
        """Return a model repository."""
        return self.repositories["model", name]

    def dataset(self, name: str) -> Repository:
        """Return a dataset repository."""
        return self.repositories["dataset", name]

    def fail(self, what: str, times: int = 1, status: int | None = 500, *, after: bool = False) -> None:
        """Make requests fail."""
        with self.lock:
            self.faults.append(Fault(what, times, status, after))

    def fault_of(self, request: str) -> Fault | None:
        """Return the fault that applies to a request."""
        with self.lock:
            for fault in self.faults:
                if fault.times and re.search(fault.what, request):
                    fault.times -= 1
                    return fault
        return None

    def count(self, what: str) -> int:
        """Return how many requests match a pattern."""
        return sum(re.search(what, request) is not None for request in self.requests)


def problems_of_card(content: str, kind: str) -> list[str]:
    """Return the problems for which the Hub would reject a card's metadata."""
    block = REGEX_YAML_BLOCK.search(content)
    if block is None:
        return ["no metadata"]
    try:
        data = yaml.safe_load(block.group(2))
    except yaml.YAMLError as error:
        return [f"not YAML: {error}"]
    if not isinstance(data, dict):
        return ["no mapping"]
    found = []
    repository = re.compile(r"^[\w.-]+(/[\w.-]+)?$")
    if data.get("license") not in LICENSES:
        found.append(f'"license" must be one of {sorted(LICENSES)}')
    for name in ("tags", "datasets", "configs", "task_categories", "size_categories", "source_datasets"):
        if name in data and not isinstance(data[name], list):
            found.append(f'"{name}" must be an array')
    for name in [data.get("base_model"), *(data.get("datasets") or [])]:
        if name is not None and not repository.match(str(name)):
            found.append(f'"{name}" is no name of a repository')
    if kind == "model" and "model-index" in data:
        name, results = model_index_to_eval_results(data["model-index"])
        if not name or any(not isinstance(result.metric_value, int | float) for result in results):
            found.append('"model-index" is not valid')
    if kind == "dataset":
        for config in data.get("configs") or [{}]:
            if not config.get("config_name") or not config.get("data_files"):
                found.append('"configs" is not valid')
    return found


def _handler(hub: LocalHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

        def _serve(self) -> None:
            parts = urlsplit(self.path)
            path = unquote(parts.path)
            request = f"{self.command} {path}"
            body = self._body()
            hub.requests.append(request)
            fault = hub.fault_of(request)
            self.loses_answer = fault is not None and fault.after
            if fault is not None and fault.status is None and not fault.after:
                self._cut()
                return
            if fault is not None and fault.status is not None:
                self._answer({"error": "ordered by the test"}, fault.status)
                return
            for hook in hub.hooks:
                hook(request)
            authorized = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            if not authorized and not path.startswith(("/lfs/", "/api/validate-yaml")):
                self._answer({"error": "Invalid credentials"}, 401)
                return
            with hub.lock:
                for method, pattern, function in _ROUTES:
                    match = re.fullmatch(pattern, path)
                    if method == self.command and match:
                        function(self, body, parse_qs(parts.query), **match.groupdict())
                        return
            self._answer({"error": f"no route for {request}"}, 404)

        do_GET = do_POST = do_PUT = do_HEAD = _serve  # noqa: N815

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                found = b""
                while size := int(self.rfile.readline(), 16):
                    found += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return found
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _cut(self) -> None:
            """Reset the connection in the middle of a response."""
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
            self.close_connection = True

        def _answer(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
            if self.loses_answer:
                self._cut()
                return
            content = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            for name, text in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, text)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        # ---- accounts and repositories --------------------------------------------------------------------------------

        def whoami(self, body: bytes, query: dict) -> None:
            self._answer({"type": "user", "name": USER, "orgs": []})

        def create(self, body: bytes, query: dict) -> None:
            asked = json.loads(body)
            name = f"{asked.get('organization') or USER}/{asked['name']}"
            kind = asked.get("type", "model")
            place = "datasets/" if kind == "dataset" else ""
            if (kind, name) in hub.repositories:
                self._answer({"error": "You already created this repo", "url": f"{hub.url}/{place}{name}"}, 409)
                return
            made = hub.repositories[kind, name] = Repository(
                private=None if "visibility" not in asked else asked["visibility"] == "private"
            )
            made.branches["main"] = {".gitattributes": b"*.safetensors filter=lfs\n"}
            made.commit("main", "initial commit")
            self._answer({"url": f"{hub.url}/{place}{name}", "id": "1", "name": name})

        def validate(self, body: bytes, query: dict) -> None:
            asked = json.loads(body)
            found = problems_of_card(asked["content"], asked.get("repoType", "model"))
            hub.validated.append(asked["content"])
            self._answer({"errors": [{"message": one} for one in found], "warnings": []}, 400 if found else 200)

        def _repository(self, kinds: str, name: str) -> Repository | None:
            found = hub.repositories.get((kinds.rstrip("s"), name))
            if found is None:
                self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return found

        def _revision(self, found: Repository, revision: str) -> tuple[str, str] | None:
            at = found.at(revision)
            if at is None:
                self._answer({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
            return at

        def info(self, body: bytes, query: dict, kinds: str, name: str, revision: str = "main") -> None:
            if (found := self._repository(kinds, name)) and (at := self._revision(found, revision)):
                card = {"license": found.license} if found.license else None
                siblings = [{"rfilename": path} for path in found.branches[at[0]]]
                self._answer(
                    {"id": name, "modelId": name, "sha": at[1], "private": bool(found.private), "tags": []}
                    | {"siblings": siblings, "downloads": 0, "likes": 0, "cardData": card}
                )

        def refs(self, body: bytes, query: dict, kinds: str, name: str) -> None:
            if found := self._repository(kinds, name):
                branches = [
                    {"name": branch, "ref": f"refs/heads/{branch}", "targetCommit": history[-1][0]}
                    for branch, history in found.commits.items()
                ]
                self._answer({"branches": branches, "converts": [], "tags": []})

        def branch(self, body: bytes, query: dict, kinds: str, name: str, branch: str) -> None:
            if found := self._repository(kinds, name):
                if branch in found.branches:
                    self._answer({"error": "Reference already exists"}, 409)
                    return
                found.branches[branch] = dict(found.branches["main"])
                found.commit(branch, "branched off")
                self._answer({}, 201)

        def tree(self, body: bytes, query: dict, kinds: str, name: str, revision: str, folder: str = "") -> None:
            if (found := self._repository(kinds, name)) and (at := self._revision(found, revision)):
                inside = {
                    path: data
                    for path, data in sorted(found.branches[at[0]].items())
                    if not folder or path.startswith(f"{folder}/")
                }
                if folder and not inside:
                    self._answer({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
                    return
                self._answer([_entry(found, path, data) for path, data in inside.items()])

        # ---- commits --------------------------------------------------------------------------------------------------

        def preupload(self, body: bytes, query: dict, kinds: str, name: str, revision: str) -> None:
            if (found := self._repository(kinds, name)) and (at := self._revision(found, revision)):
                there = found.branches[at[0]]
                files = [
                    {
                        "path": one["path"],
                        "uploadMode": "lfs" if one["path"].endswith(LARGE) else "regular",
                        "shouldIgnore": False,
                        "oid": _oid(found, one["path"], there[one["path"]]) if one["path"] in there else None,
                    }
                    for one in json.loads(body)["files"]
                ]
                self._answer({"files": files})

        def batch(self, body: bytes, query: dict, name: str) -> None:
            objects = []
            for one in json.loads(body)["objects"]:
                entry = {"oid": one["oid"], "size": one["size"]}
                if one["oid"] not in hub.objects:
                    entry["actions"] = {
                        "upload": {"href": f"{hub.url}/lfs/{one['oid']}?X-Signature=very-secret"},
                        "verify": {"href": f"{hub.url}/lfs-verify/{one['oid']}"},
                    }
                objects.append(entry)
            self._answer({"transfer": "basic", "objects": objects})

        def upload(self, body: bytes, query: dict, oid: str) -> None:
            if hashlib.sha256(body).hexdigest() != oid:
                self._answer({"error": "not what was announced"}, 400)
                return
            hub.objects[oid] = body
            self._answer({})

        def verify(self, body: bytes, query: dict, oid: str) -> None:
            asked = json.loads(body)
            good = asked["size"] == len(hub.objects.get(asked["oid"], b"")) and asked["oid"] in hub.objects
            self._answer({}, 200 if good else 400)

        def commit(self, body: bytes, query: dict, kinds: str, name: str, revision: str) -> None:
            if not (found := self._repository(kinds, name)) or not (at := self._revision(found, revision)):
                return
            branch = at[0]
            files = dict(found.branches[branch])
            message = ""
            for line in body.splitlines():
                item = json.loads(line)
                value = item["value"]
                match item["key"]:
                    case "header":
                        message = value["summary"]
                    case "file":
                        files[value["path"]] = base64.b64decode(value["content"])
                        found.large.discard(value["path"])
                    case "lfsFile":
                        files[value["path"]] = hub.objects[value["oid"]]
                        found.large.add(value["path"])
                    case "deletedFile":
                        del files[value["path"]]
                    case other:
                        self._answer({"error": f"unknown operation {other}"}, 400)
                        return
            found.branches[branch] = files
            oid = found.commit(branch, message)
            place = "datasets/" if kinds == "datasets" else ""
            self._answer({"commitUrl": f"{hub.url}/{place}{name}/commit/{oid}", "commitOid": oid, "success": True})

        # ---- downloads ------------------------------------------------------------------------------------------------

        def resolve(
            self, body: bytes, query: dict, name: str, revision: str, path: str, kinds: str = "models"
        ) -> None:
            kinds = kinds or "models"
            if not (found := self._repository(kinds, name)) or not (at := self._revision(found, revision)):
                return
            content = found.branches[at[0]].get(path)
            if content is None:
                self._answer({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
                return
            headers = {"ETag": f'"{_oid(found, path, content)}"', "X-Repo-Commit": at[1]}
            self._answer(content, 200, headers | {"Content-Type": "application/octet-stream"})

    repository = r"(?P<name>[\w.-]+/[\w.-]+)"
    api = rf"/api/(?P<kinds>models|datasets)/{repository}"
    _ROUTES = [
        ("GET", "/api/whoami-v2", Handler.whoami),
        ("POST", "/api/repos/create", Handler.create),
        ("POST", "/api/validate-yaml", Handler.validate),
        ("GET", api, Handler.info),
        ("GET", rf"{api}/revision/(?P<revision>[^/]+)", Handler.info),
        ("GET", rf"{api}/refs", Handler.refs),
        ("POST", rf"{api}/branch/(?P<branch>.+)", Handler.branch),
        ("GET", rf"{api}/tree/(?P<revision>[^/]+)", Handler.tree),
        ("GET", rf"{api}/tree/(?P<revision>[^/]+)/(?P<folder>.+)", Handler.tree),
        ("POST", rf"{api}/preupload/(?P<revision>[^/]+)", Handler.preupload),
        ("POST", rf"/(?:datasets/)?{repository}\.git/info/lfs/objects/batch", Handler.batch),
        ("PUT", r"/lfs/(?P<oid>\w+)", Handler.upload),
        ("POST", r"/lfs-verify/(?P<oid>\w+)", Handler.verify),
        ("POST", rf"{api}/commit/(?P<revision>[^/]+)", Handler.commit),
    ]
    for method in ("GET", "HEAD"):
        _ROUTES += [
            (method, rf"/{repository}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
            (method, rf"/(?P<kinds>datasets)/{repository}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
        ]
    return Handler


def _oid(found: Repository, path: str, content: bytes) -> str:
    """Return the SHA-256 of a large file, and git's blob hash of others."""
    if path in found.large:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(found: Repository, path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _oid(found, path, content)}
    if path in found.large:
        entry["lfs"] = {"oid": entry["oid"], "size": len(content), "pointerSize": 130}
    return entry
