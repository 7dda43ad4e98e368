"""A stand-in for the Hugging Face Hub: the routes that huggingface_hub calls, repos on disk.

    ROOT/objects/SHA256                   contents
    ROOT/repos/OWNER/NAME.json            {"private", "gated", "refs": {name: commit}}
    ROOT/repos/OWNER/NAME/COMMIT.json     {"parent", "message", "files": {path: FileRecord}}

The real client talks to it on loopback. It can be told to fail (`Fault`), and counts what it was
asked, so that a test can say "no request was made".

Source: the requests of huggingface_hub 1.33 and 2.4, and huggingface.co/docs/hub/api.
"""

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN = "hf_standin"
LFS_FROM = 600  # bytes; the Hub's is 10 MB, and tests are to see both ways
BLOCK = 1 << 20
EMPTY = "0" * 40


@dataclass
class Fault:
    """A fault of the next `times` requests that match.

    Attributes:
        method: GET, HEAD, POST, PUT, or "" for any.
        path: regular expression, searched in the path.
        status: answer this instead.
        cut: break the connection after so many bytes of the body.
        reset: break it so that the client's socket is reset, not merely closed.
        corrupt: turn one byte of the body.
        times: how often.
    """

    method: str
    path: str
    status: int = 0
    cut: int | None = None
    reset: bool = False
    corrupt: bool = False
    times: int = 1


@dataclass
class StandIn:
    """The server: what it keeps, what it was asked, what is to go wrong."""

    root: Path
    url: str = ""
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)  # in the place of a file's own
    lock: threading.RLock = field(default_factory=threading.RLock)

    # -- what tests ask for ------------------------------------------------------------------------

    def fail(self, method: str, path: str, **how: Any) -> None:
        """Let requests fail from now on."""
        self.faults.append(Fault(method, path, **how))

    def asked(self, method: str, path: str) -> int:
        """Number of requests that matched."""
        return sum(m == method and bool(re.search(path, p)) for m, p in self.requests)

    def commits(self, repo: str) -> list[str]:
        """Commits of main, newest first, without the first empty one."""
        found, commit = [], self.repo(repo)["refs"]["main"]
        while commit != EMPTY:
            found.append(commit)
            commit = self.record(repo, commit)["parent"]
        return found

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """The content of every file of a revision."""
        record = self.record(repo, self.resolve(repo, revision))
        return {path: self.content(one["sha256"]) for path, one in record["files"].items()}

    def change(self, repo: str, **settings: Any) -> None:
        """Set `private` or `gated`."""
        self.write_repo(repo, self.repo(repo) | settings)

    def put(self, repo: str, files: dict[str, bytes]) -> str:
        """Commit whatever content, without any client: what strangers may publish."""
        with self.lock:
            if not self.repo_path(repo).is_file():
                self.create(repo, private=False)
            records = {path: self.keep(content) for path, content in files.items()}
            return self.commit(repo, records, [], "by hand")

    # -- storage -----------------------------------------------------------------------------------

    def repo_path(self, repo: str) -> Path:
        return self.root / "repos" / f"{repo}.json"

    def repo(self, repo: str) -> dict[str, Any]:
        return json.loads(self.repo_path(repo).read_text())

    def write_repo(self, repo: str, value: dict[str, Any]) -> None:
        self.repo_path(repo).write_text(json.dumps(value))

    def create(self, repo: str, private: bool) -> None:
        self.record_path(repo, EMPTY).parent.mkdir(parents=True)
        self.record_path(repo, EMPTY).write_text('{"parent": null, "message": "", "files": {}}')
        self.write_repo(repo, {"private": private, "gated": False, "refs": {"main": EMPTY}})
        attributes = self.keep(b"*.mp4 filter=lfs diff=lfs merge=lfs -text\n")
        self.commit(repo, {".gitattributes": attributes}, [], "initial commit")

    def record_path(self, repo: str, commit: str) -> Path:
        return self.root / "repos" / repo / f"{commit}.json"

    def record(self, repo: str, commit: str) -> dict[str, Any]:
        return json.loads(self.record_path(repo, commit).read_text())

    def resolve(self, repo: str, revision: str) -> str | None:
        refs = self.repo(repo)["refs"]
        if revision in refs:
            return refs[revision]
        known = re.fullmatch("[0-9a-f]{40}", revision) and self.record_path(repo, revision)
        return revision if known and known.is_file() else None

    def object_path(self, sha256: str) -> Path:
        return self.root / "objects" / sha256

    def content(self, sha256: str) -> bytes:
        return self.object_path(sha256).read_bytes()

    def keep(self, content: bytes) -> dict[str, Any]:
        sha256 = hashlib.sha256(content).hexdigest()
        self.object_path(sha256).parent.mkdir(parents=True, exist_ok=True)
        self.object_path(sha256).write_bytes(content)
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        return {"sha256": sha256, "oid": git, "size": len(content), "lfs": False}

    def commit(self, repo: str, added: dict[str, Any], deleted: list[str], message: str) -> str:
        value = self.repo(repo)
        parent = value["refs"]["main"]
        files = {p: f for p, f in self.record(repo, parent)["files"].items() if p not in deleted}
        record = {"parent": parent, "message": message, "files": files | added}
        text = json.dumps(record)
        commit = hashlib.sha1(text.encode()).hexdigest()
        self.record_path(repo, commit).write_text(text)
        value["refs"]["main"] = commit
        self.write_repo(repo, value)
        return commit

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            self.requests.append((method, path))
            for fault in self.faults:
                if fault.times and fault.method in ("", method) and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None


@contextmanager
def serving(root: Path) -> Iterator[StandIn]:
    """A stand-in on a free port of the loopback, until the block ends."""
    hub = StandIn(root)
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join(10)
        server.server_close()


REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    hub: StandIn
    active: Fault | None

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing to the terminal."""

    def do_GET(self) -> None:
        self.serve()

    def do_HEAD(self) -> None:
        self.serve()

    def do_POST(self) -> None:
        self.serve()

    def do_PUT(self) -> None:
        self.serve()

    def serve(self) -> None:
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), parse_qs(url.query)
        self.active = self.hub.fault(self.command, path)
        if self.active and self.active.status:
            self.drain()
            self.refuse(self.active.status, "", "told to fail")
            return
        for method, pattern, answer in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command == method:
                answer(self, **found.groupdict())
                return
        self.drain()
        self.refuse(404, "", "no such route")

    # -- bodies ------------------------------------------------------------------------------------

    def length(self) -> int:
        return int(self.headers.get("Content-Length") or 0)

    def body(self) -> bytes:
        return self.rfile.read(self.length())

    def drain(self) -> None:
        left = self.length()
        while left > 0:
            left -= len(self.rfile.read(min(left, BLOCK)))

    def read(self) -> Any:
        return json.loads(self.body())

    def say(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        for name, one in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, one)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self.say({"error": message}, status, {k: v for k, v in headers.items() if v})

    def break_off(self, reset: bool) -> None:
        """Close before all was sent; clients fail at once on a reset, and retry a plain close."""
        self.wfile.flush()
        if reset:
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR) if not reset else self.connection.close()

    # -- who may see what --------------------------------------------------------------------------

    def is_known(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def sees(self, repo: str) -> bool:
        """Whether the repo is there for whoever asks; says why if not."""
        if not self.hub.repo_path(repo).is_file():
            self.drain()
            self.refuse(404 if self.is_known() else 401, "RepoNotFound", "Repository not found")
            return False
        settings = self.hub.repo(repo)
        if settings["private"] and not self.is_known():
            self.drain()
            self.refuse(401, "RepoNotFound", "Repository not found")
            return False
        if settings["gated"] and "/resolve/" in self.path:
            self.drain()
            self.refuse(403, "GatedRepo", "Access to this model is restricted")
            return False
        return True

    def at(self, repo: str, revision: str) -> str | None:
        """The commit, or None after having said that there is none."""
        if not self.sees(repo):
            return None
        commit = self.hub.resolve(repo, unquote(revision))
        if commit is None:
            self.drain()
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def writes(self) -> bool:
        if not self.is_known():
            self.drain()
            self.refuse(401, "", "Invalid username or password.")
        return self.is_known()


def create_repo(self: Handler) -> None:
    if not self.writes():
        return
    asked = self.read()
    repo = f"{asked['organization'] or 'me'}/{asked['name']}"
    if repo.startswith("stranger/"):
        self.refuse(403, "", "You don't have the rights to create a model under this namespace")
        return
    url = {"url": f"{self.hub.url}/{repo}"}
    with self.hub.lock:
        if self.hub.repo_path(repo).is_file():
            self.say({**url, "error": "You already created this model repo"}, 409)
            return
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.hub.create(repo, private)
    self.say(url)


def validate_yaml(self: Handler) -> None:
    content = self.read()["content"]
    found = re.match(r"\A---\n(.*?)\n---\n", content, re.DOTALL)
    errors = [] if found else [{"message": "no metadata"}]
    if found and "license" not in yaml.safe_load(found[1]):
        errors.append({"message": "license is missing"})
    self.say({"errors": errors, "warnings": []}, 400 if errors else 200)


def preupload(self: Handler, repo: str, revision: str) -> None:
    asked = self.read()["files"]
    if not self.writes() or not (commit := self.at(repo, revision)):
        return
    there = self.hub.record(repo, commit)["files"]
    self.say({"files": [_mode(one, there.get(one["path"])) for one in asked]})


def _mode(asked: dict[str, Any], there: dict[str, Any] | None) -> dict[str, Any]:
    text = asked["path"].endswith((".json", ".md")) or asked["size"] < LFS_FROM
    oid = (there["sha256"] if there["lfs"] else there["oid"]) if there else None
    mode = "regular" if text else "lfs"
    return {"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}


def lfs_batch(self: Handler, repo: str) -> None:
    asked = self.read()
    if not self.writes():
        return
    objects = []
    for one in asked["objects"]:
        answer = {"oid": one["oid"], "size": one["size"]}
        if not self.hub.object_path(one["oid"]).is_file():
            upload = {"href": f"{self.hub.url}/storage/{one['oid']}", "header": {}}
            verify = {"href": f"{self.hub.url}/verify/{one['oid']}", "header": {}}
            answer["actions"] = {"upload": upload, "verify": verify}
        objects.append(answer)
    self.say({"transfer": "basic", "objects": objects})


def store(self: Handler, sha256: str) -> None:
    """Take an upload block by block."""
    digest, left = hashlib.sha256(), self.length()
    path = self.hub.object_path(sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{sha256}-{threading.get_ident()}")
    with partial.open("wb") as file:
        while left > 0:
            block = self.rfile.read(min(left, BLOCK))
            left -= len(block)
            digest.update(block)
            file.write(block)
    if digest.hexdigest() != sha256:
        partial.unlink()
        self.refuse(400, "", "sha256 differs")
        return
    partial.replace(path)
    self.say({})


def verify(self: Handler, sha256: str) -> None:
    size = self.read()["size"]
    path = self.hub.object_path(sha256)
    if path.is_file() and path.stat().st_size == size:
        self.say({})
    else:
        self.refuse(404, "", "no such object")


def commit(self: Handler, repo: str, revision: str) -> None:
    lines = [json.loads(line) for line in self.body().splitlines()]
    if not self.writes() or not self.at(repo, revision):
        return
    by_key: dict[str, list[Any]] = {}
    for line in lines:
        by_key.setdefault(line["key"], []).append(line["value"])
    header = by_key["header"][0]
    with self.hub.lock:
        head = self.hub.repo(repo)["refs"]["main"]
        if header.get("parentCommit") not in (None, head):
            self.refuse(412, "", "A commit has happened since")
            return
        plain = by_key.get("file", [])
        added = {one["path"]: self.hub.keep(base64.b64decode(one["content"])) for one in plain}
        for one in by_key.get("lfsFile", []):
            assert self.hub.object_path(one["oid"]).is_file(), one
            pointer = hashlib.sha1(one["oid"].encode()).hexdigest()
            added[one["path"]] = {
                "sha256": one["oid"], "oid": pointer, "size": one["size"], "lfs": True
            }  # fmt: skip
        gone = [one["path"] for one in by_key.get("deletedFile", [])]
        done = self.hub.commit(repo, added, gone, header["summary"])
    self.say({"commitOid": done, "commitUrl": f"{self.hub.url}/{repo}/commit/{done}",
              "hookOutput": ""})  # fmt: skip


def model(self: Handler, repo: str, revision: str = "main") -> None:
    if commit := self.at(repo, revision):
        self.say(described(self.hub, repo, commit))


def described(hub: StandIn, repo: str, commit: str) -> dict[str, Any]:
    files = hub.record(repo, commit)["files"]
    card: dict[str, Any] = {}
    if "README.md" in files:
        text = hub.content(files["README.md"]["sha256"]).decode()
        card = yaml.safe_load(text.split("---\n")[1])
    settings = hub.repo(repo)
    return {
        "id": repo,
        "modelId": repo,
        "sha": commit,
        "private": settings["private"],
        "gated": settings["gated"],
        "tags": card.get("tags", []),
        "cardData": card,
        "downloads": 0,
        "likes": 0,
        "siblings": [{"rfilename": path} for path in files],
    }


def models(self: Handler) -> None:
    """All public models with every asked tag, by part of their name."""
    tags, words = self.query.get("filter", []), self.query.get("search", [""])[0].lower()
    paths = sorted((self.hub.root / "repos").glob("*/*.json"))
    repos = [f"{path.parent.name}/{path.stem}" for path in paths]
    found = [described(self.hub, r, self.hub.repo(r)["refs"]["main"]) for r in repos]
    public = [one for one in found if not one["private"] and words in one["id"].lower()]
    kept = [one for one in public if {*tags} <= {*one["tags"]}]
    self.say(kept[: int(self.query.get("limit", ["100"])[0])])


def tree(self: Handler, repo: str, revision: str) -> None:
    if commit := self.at(repo, revision):
        files = self.hub.record(repo, commit)["files"]
        self.say([_listed(path, one) for path, one in files.items()])


def paths_info(self: Handler, repo: str, revision: str) -> None:
    content = self.body()
    if self.headers.get("Content-Type", "").startswith("application/json"):
        wanted = json.loads(content)["paths"]
    else:
        wanted = parse_qs(content.decode())["paths"]
    if commit := self.at(repo, revision):
        files = self.hub.record(repo, commit)["files"]
        self.say([_listed(path, one) for path, one in files.items() if path in wanted])


def _listed(path: str, one: dict[str, Any]) -> dict[str, Any]:
    found = {"type": "file", "path": path, "size": one["size"], "oid": one["oid"]}
    if one["lfs"]:
        found["lfs"] = {"oid": one["sha256"], "size": one["size"], "pointerSize": 130}
    return found


def resolve(self: Handler, repo: str, revision: str, path: str) -> None:
    if not (commit := self.at(repo, revision)):
        return
    one = self.hub.record(repo, commit)["files"].get(path)
    if one is None:
        self.refuse(404, "EntryNotFound", "Entry not found")
        return
    start = int(re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
    self.send_response(206 if start else 200)
    tag = f'"{one["sha256"] if one["lfs"] else one["oid"]}"'
    for name, value in ({"ETag": tag, "X-Repo-Commit": commit} | self.hub.headers).items():
        self.send_header(name, value)
    self.send_header("Content-Length", str(one["size"] - start))
    if start:
        self.send_header("Content-Range", f"bytes {start}-{one['size'] - 1}/{one['size']}")
    self.end_headers()
    if self.command == "GET":
        send(self, self.hub.object_path(one["sha256"]), start)


def send(self: Handler, path: Path, start: int) -> None:
    """A file from `start` on, with what the fault does to it."""
    fault, sent = self.active, 0
    with path.open("rb") as file:
        file.seek(start)
        while block := file.read(BLOCK):
            if fault and fault.corrupt and not sent:
                block = bytes([block[0] ^ 1]) + block[1:]
            if fault and fault.cut is not None and sent + len(block) > fault.cut:
                self.wfile.write(block[: fault.cut - sent])
                self.break_off(fault.reset)
                return
            sent += self.wfile.write(block)


Route = tuple[str, str, Callable[..., None]]
ROUTES: list[Route] = [
    ("POST", "/api/repos/create", create_repo),
    ("POST", "/api/validate-yaml", validate_yaml),
    ("GET", "/api/models", models),
    ("POST", f"/api/models/{REPO}/preupload/(?P<revision>.+)", preupload),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", lfs_batch),
    ("PUT", "/storage/(?P<sha256>[0-9a-f]{64})", store),
    ("POST", "/verify/(?P<sha256>[0-9a-f]{64})", verify),
    ("POST", f"/api/models/{REPO}/commit/(?P<revision>.+)", commit),
    ("GET", f"/api/models/{REPO}", model),
    ("GET", f"/api/models/{REPO}/revision/(?P<revision>.+)", model),
    ("GET", f"/api/models/{REPO}/tree/(?P<revision>.+)", tree),
    ("POST", f"/api/models/{REPO}/paths-info/(?P<revision>.+)", paths_info),
    ("HEAD", f"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", resolve),
    ("GET", f"/{REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", resolve),
]
