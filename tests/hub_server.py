"""A small Hub on loopback: the part of the Hub's HTTP API that pushing and loading a model needs.

Repositories are kept in memory. Files are committed as on the Hub: text in the commit itself, large or binary files by
Git LFS first. Every write needs the token. Other paths of the API answer 404.
"""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

USER = "somebody"
TOKEN = "hf_loopback"


class HubServer(ThreadingHTTPServer):
    """Attributes: `repos`, for each id its commits, oldest first, each a dict from path to content; `requests`, all
    requests as "METHOD /path"; `cards`, the READMEs that were validated."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), HubRequestHandler)
        self.repos: dict[str, list[dict[str, bytes]]] = {}
        self.lfs_objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, repo_id: str) -> dict[str, bytes]:
        """The files of a repository's newest commit."""
        return self.repos[repo_id][-1]

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables that make `huggingface_hub` in a new process use this server, as its user."""
        return {"HF_ENDPOINT": self.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}


@contextmanager
def running_hub():
    """A `HubServer` that answers until the block ends."""
    with HubServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def commit_id(repo_id: str, number: int) -> str:
    return hashlib.sha1(f"{repo_id} {number}".encode()).hexdigest()


def is_large(path: str) -> bool:
    """Whether the Hub keeps the file in LFS."""
    return not path.endswith((".json", ".jsonl", ".md", ".py", ".jinja", ".txt", ".gitattributes"))


class HubRequestHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *arguments):
        """Prints nothing: the server records the requests itself."""

    def do_GET(self):
        self.handle_request()

    do_HEAD = do_POST = do_PUT = do_GET

    def handle_request(self):
        path = unquote(urlsplit(self.path).path)
        length = int(self.headers.get("Content-Length") or 0)
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        body = self.read_chunks() if chunked else self.rfile.read(length)
        with self.server.lock:
            self.server.requests.append(f"{self.command} {path}")
            if self.command in ("POST", "PUT") and not path.startswith("/lfs/"):
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    return self.answer({"error": "Invalid username or password."}, status=401)
            return self.route(path.strip("/").split("/"), body)

    def read_chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def route(self, parts: list[str], body: bytes):
        match [self.command, *parts]:
            case ["GET", "api", "whoami-v2"]:
                self.answer({"type": "user", "name": USER, "orgs": []})
            case ["POST", "api", "repos", "create"]:
                self.create_repo(json.loads(body))
            case ["POST", "api", "validate-yaml"]:
                self.validate_card(json.loads(body)["content"])
            case ["PUT", "lfs", oid]:
                stored = hashlib.sha256(body).hexdigest() == oid
                self.server.lfs_objects |= {oid: body} if stored else {}
                self.answer({}, status=200 if stored else 400)
            case ["POST", user, name, "info", "lfs", "objects", "batch"]:
                self.answer(
                    {"transfer": "basic", "objects": [self.upload(item) for item in json.loads(body)["objects"]]}
                )
            case ["POST", "api", "models", user, name, action, "main"] if f"{user}/{name}" in self.server.repos:
                self.preupload(body) if action == "preupload" else self.commit(f"{user}/{name}", body)
            case ["GET", "api", "models", user, name, *rest] if f"{user}/{name}" in self.server.repos:
                self.describe(f"{user}/{name}", rest)
            case ["GET" | "HEAD", user, name, "resolve", revision, *path] if f"{user}/{name}" in self.server.repos:
                self.send_file(f"{user}/{name}", revision, "/".join(path))
            case _:
                self.not_found("RepoNotFound")

    def create_repo(self, wanted: dict):
        repo_id = f"{wanted.get('organization') or USER}/{wanted['name']}"
        exists = repo_id in self.server.repos
        self.server.repos.setdefault(repo_id, [{".gitattributes": b""}])
        url = f"{self.server.endpoint}/{repo_id}"
        self.answer({"url": url, "name": repo_id, "id": repo_id}, status=409 if exists else 200)

    def validate_card(self, content: str):
        """Like the Hub: the metadata must be YAML between two lines of dashes."""
        try:
            valid = isinstance(yaml.safe_load(content.split("---\n")[1]), dict)
        except (IndexError, yaml.YAMLError):
            valid = False
        errors = [] if valid else [{"message": "the metadata is not YAML"}]
        self.answer({"warnings": [], "errors": errors}, status=200 if valid else 400)

    def upload(self, item: dict) -> dict:
        """Where to upload an LFS object, unless it is there already."""
        if item["oid"] in self.server.lfs_objects:
            return item
        return item | {"actions": {"upload": {"href": f"{self.server.endpoint}/lfs/{item['oid']}"}}}

    def preupload(self, body: bytes):
        modes = {True: "lfs", False: "regular"}
        paths = [file["path"] for file in json.loads(body)["files"]]
        files = [{"path": path, "uploadMode": modes[is_large(path)], "shouldIgnore": False} for path in paths]
        self.answer({"files": files})

    def commit(self, repo_id: str, body: bytes):
        files = dict(self.server.files(repo_id))
        for line in body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            match operation["key"]:
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.server.lfs_objects[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        self.server.repos[repo_id].append(files)
        oid = commit_id(repo_id, len(self.server.repos[repo_id]) - 1)
        self.answer({"commitOid": oid, "commitUrl": f"{self.server.endpoint}/{repo_id}/commit/{oid}"})

    def describe(self, repo_id: str, rest: list[str]):
        """The repository's newest commit, or the files in one of its folders."""
        files = self.server.files(repo_id)
        if rest[:1] == ["tree"]:
            folder = "".join(f"{part}/" for part in rest[2:])
            inside = [path for path in files if path.startswith(folder)]
            if not inside:
                return self.not_found("EntryNotFound")
            return self.answer(
                [{"type": "file", "path": path, "size": len(files[path]), "oid": ""} for path in inside]
            )
        sha = commit_id(repo_id, len(self.server.repos[repo_id]) - 1)
        siblings = [{"rfilename": path} for path in files]
        return self.answer({"id": repo_id, "sha": sha, "siblings": siblings, "tags": [], "private": False})

    def send_file(self, repo_id: str, revision: str, path: str):
        commits = self.server.repos[repo_id]
        numbers = {commit_id(repo_id, number): number for number in range(len(commits))}
        number = numbers.get(revision, len(commits) - 1)
        content = commits[number].get(path)
        if content is None:
            return self.not_found("EntryNotFound", commit_id(repo_id, number))
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": commit_id(repo_id, number)}
        return self.send(content, headers=headers)

    def not_found(self, code: str, commit: str | None = None):
        headers = {"X-Error-Code": code} | ({} if commit is None else {"X-Repo-Commit": commit})
        self.answer({"error": code}, status=404, headers=headers)

    def answer(self, value, status: int = 200, headers: dict[str, str] | None = None):
        self.send(json.dumps(value).encode(), status, {"Content-Type": "application/json"} | (headers or {}))

    def send(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None):
        self.send_response(status)
        for name, value in ((headers or {}) | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
