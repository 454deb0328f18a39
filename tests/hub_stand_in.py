"""A server on this machine that answers the Hub's calls for models, data sets and Spaces."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

import datasets
import huggingface_hub
import yaml

TOKEN = "hf_thesecretofsomebody"
API = re.compile(r"/api/(?P<kind>models|datasets|spaces)/(?P<name>[^/]+/[^/]+)(?P<rest>/.*)?")
FILE = re.compile(
    r"/(?:(?P<kind>datasets|spaces)/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<commit>[^/]+)/(?P<path>.+)"
)

NAME = r"[\w.-]+/[\w.-]+"
PATTERNS = {
    "license": r"[a-z0-9.+-]+",
    "license_name": r"[a-z0-9.-]+",
    "base_model": NAME,
    "base_model_relation": "adapter|merge|quantized|finetune",
    "datasets": NAME,
}
"""What values of a card's front matter have to look like."""


@dataclass
class StoredRepository:
    """One repository: the files of each commit, oldest first."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    """Tags, by name; ``main`` is the last commit."""
    gated: bool = False
    settings: dict = field(default_factory=dict)
    """What it was created with."""

    @property
    def head(self):
        return list(self.commits)[-1]

    @property
    def files(self):
        """What is there now."""
        return self.commits[self.head]

    def commit(self, files):
        """Add a commit that holds these files; return its name."""
        sha = hashlib.sha1(f"{len(self.commits)}".encode()).hexdigest()
        self.commits[sha] = dict(files)
        return sha

    def resolve(self, revision):
        """Return the commit that a revision names, or what it was given."""
        if revision == "main" and "main" not in self.revisions:
            return self.head
        return self.revisions.get(revision, revision)


class HubStandIn(BaseHTTPRequestHandler):
    """Repositories in memory. A token is needed to write."""

    repositories: dict[tuple[str, str], StoredRepository]
    """By kind (``models``, ``datasets``, ``spaces``) and name."""
    requests: list[str]
    refusal: dict[str, tuple[int, str]]
    """The status and message with which calls that hold a text are refused, by that text."""

    def do_GET(self):
        self.requests.append(self.path)
        path, _, self.query = unquote(self.path).partition("?")
        match = API.fullmatch(path) or FILE.fullmatch(path)
        if self.refused(path):
            return None
        repository = match and self.repositories.get((match["kind"] or "models", match["name"]))
        if not repository:
            return self.refuse(404, "RepoNotFound")
        if match.re is FILE:
            return self.answer_file(repository, match["commit"], match["path"])
        return self.answer_about(repository, match["name"], match["rest"] or "")

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.requests.append(self.path)
        if self.refused(self.path):
            return None
        if self.path == "/api/validate-yaml":
            return self.validate(json.loads(body)["content"])
        match = API.fullmatch(self.path)
        if match and "/paths-info/" in self.path:
            return self.answer_paths(match, json.loads(body)["paths"])
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.refuse(401, message="Invalid credentials in Authorization header")
        if self.path == "/api/repos/create":
            return self.create(json.loads(body))
        repository = match and self.repositories.get((match["kind"], match["name"]))
        if not repository:
            return self.refuse(404, "RepoNotFound")
        if "/preupload/" in self.path:
            return self.answer_preupload(json.loads(body)["files"])
        return self.commit(repository, match["name"], body)

    def refused(self, path):
        """Refuse a call as the test wants it."""
        for text, (status, message) in self.refusal.items():
            if text in path:
                self.refuse(status, message=message)
                return True
        return False

    def validate(self, content):
        """Check a card's front matter, by the rules of the Hub that its pages state."""
        problems = list(find_problems(yaml.safe_load(content.split("---\n")[1])))
        errors = [{"message": problem} for problem in problems]
        self.answer_json({"errors": errors, "warnings": []}, 400 if errors else 200)

    def create(self, settings):
        name = f"{settings['organization']}/{settings['name']}"
        kind = f"{settings.get('type') or 'model'}s"
        repository = StoredRepository(settings=settings)
        repository.commit({".gitattributes": b""})
        self.repositories[kind, name] = repository
        self.answer_json({"url": f"{self.address}/{name}", "name": name})

    def answer_preupload(self, files):
        answers = []
        for file in files:
            answers.append({"path": file["path"], "uploadMode": "regular", "shouldIgnore": False})
        self.answer_json({"files": answers})

    def commit(self, repository, name, body):
        files = dict(repository.files)
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            parent = value.get("parentCommit", repository.head)
            if parent != repository.head:
                return self.refuse(412, message="A commit has happened since.")
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        sha = repository.commit(files)
        url = f"{self.address}/{name}/commit/{sha}"
        return self.answer_json({"commitUrl": url, "commitOid": sha, "success": True})

    def answer_file(self, repository, revision, path):
        if repository.gated:
            return self.refuse_gated()
        commit = repository.resolve(revision)
        if commit not in repository.commits:
            return self.refuse(404, "RevisionNotFound")
        files = repository.commits[commit]
        if path not in files:
            return self.refuse(404, "EntryNotFound")
        return self.answer(files[path], commit)

    def answer_about(self, repository, name, rest):
        # What a gated repository is called is public, what it holds is not.
        if rest == "/auth-check":
            return self.refuse_gated() if repository.gated else self.answer_json({})
        match = re.fullmatch(r"/(revision|tree)/([^/]+)/?(.*)", rest)
        commit = repository.resolve(match[2] if match else "main")
        if commit not in repository.commits:
            return self.refuse(404, "RevisionNotFound")
        files = repository.commits[commit]
        if match and match[1] == "tree":
            return self.answer_json(self.list_tree(files, match[3]))
        siblings = [{"rfilename": path, "size": len(files[path])} for path in files]
        return self.answer_json({"id": name, "sha": commit, "siblings": siblings, "tags": []})

    def answer_paths(self, match, paths):
        repository = self.repositories.get((match["kind"], match["name"]))
        commit = match["rest"].rpartition("/")[2]
        if repository is None or commit not in repository.commits:
            return self.refuse(404, "RepoNotFound")
        files = repository.commits[commit]
        entries = []
        for path in paths:
            if path in files:
                entries.append(describe_file(path, files[path]))
            elif any(name.startswith(f"{path}/") for name in files):
                entries.append({"type": "directory", "path": path, "oid": "0" * 40})
        return self.answer_json(entries)

    def list_tree(self, files, folder):
        """List what is in a folder, or everything below it."""
        prefix = f"{folder}/" if folder else ""
        entries = {}
        for path, content in files.items():
            inside = path.removeprefix(prefix)
            if not path.startswith(prefix):
                continue
            if "/" in inside:
                name = prefix + inside.partition("/")[0]
                entries[name] = {"type": "directory", "path": name, "oid": "0" * 40}
            if "/" not in inside or "recursive=true" in self.query.lower():
                entries[path] = describe_file(path, content)
        return list(entries.values())

    @property
    def address(self):
        return f"http://{self.headers['Host']}"

    def answer_json(self, content, status=200):
        self.answer(json.dumps(content).encode(), "", status)

    def answer(self, content, commit, status=200):
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        size = len(content)
        self.send_response(206 if wanted else status)
        if wanted:
            begin = int(wanted[1])
            end = min(int(wanted[2] or size), size - 1)
            self.send_header("Content-Range", f"bytes {begin}-{end}/{size}")
            content = content[begin : end + 1]
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse_gated(self):
        self.refuse(403 if "Authorization" in self.headers else 401, "GatedRepo")

    def refuse(self, status, code="", message=""):
        content = json.dumps({"error": message}).encode()
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args):
        pass


def describe_file(path, content):
    oid = hashlib.sha1(content).hexdigest()
    return {"type": "file", "path": path, "size": len(content), "oid": oid}


def find_problems(metadata):
    """Find what the Hub does not take in the front matter of a card."""
    for key, pattern in PATTERNS.items():
        values = metadata.get(key, [])
        for value in values if isinstance(values, list) else [values]:
            if not re.fullmatch(pattern, value):
                yield f"{key}: {value}"
    if (metadata.get("license") == "other") != ("license_name" in metadata):
        yield "license_name is for other licenses"
    for index in metadata.get("model-index", []):
        for result in index["results"]:
            for metric in result["metrics"]:
                if not isinstance(metric["value"], float) or not metric["type"]:
                    yield f"metric {metric}"


@contextmanager
def serve_hub(monkeypatch, cache):
    """Make a server on this machine what every client takes for the Hub.

    Args:
        monkeypatch: pytest's.
        cache: folder of the clients' caches.

    Yields:
        The server's class, whose attributes are the Hub's state.
    """
    state = {"repositories": {}, "requests": [], "refusal": {}}
    handler = type("OneHub", (HubStandIn,), state)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    set_endpoint(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache / "datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    huggingface_hub.HfFileSystem.clear_instance_cache()
    yield handler
    server.shutdown()
    server.server_close()


def set_endpoint(monkeypatch, endpoint):
    """Let every client ask this address for the Hub."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", endpoint)
