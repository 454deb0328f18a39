"""Pushing to and loading from a local server that answers the Hub's calls."""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub.constants
import pytest
import torch
from diffusers import DiffusionPipeline

from distillkit import DistilledRestorationPipeline, DistillkitError, Restorer
from distillkit.cli import main as cli
from distillkit.export.folder import export, push
from distillkit.recipe.load import load_recipe
from distillkit.runs.run import run_recipe

REPOSITORY, SHA = "me/student", "0" * 40


class Hub(BaseHTTPRequestHandler):
    """One repository in memory."""

    files: dict[str, bytes]
    refuse = False

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        address = f"http://{self.headers['Host']}/{REPOSITORY}"
        if self.refuse:
            self.answer({"error": "You have no write access"}, 403)
        elif self.path == "/api/repos/create":
            self.answer({"url": address, "name": REPOSITORY})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path == f"/api/models/{REPOSITORY}/preupload/main":
            answers = []
            for file in json.loads(body)["files"]:
                answers.append(
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                )
            self.answer({"files": answers})
        elif self.path.startswith(f"/api/models/{REPOSITORY}/commit/main"):
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.files[entry["value"]["path"]] = content
            self.answer({"commitUrl": f"{address}/commit/{SHA}", "commitOid": SHA, "success": True})
        else:
            self.answer({"error": self.path}, 404)

    def do_GET(self):
        name = self.path.partition(f"/{REPOSITORY}/resolve/{SHA}/")[2]
        if name in self.files:
            self.answer(self.files[name])
        elif self.path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            tree = []
            for path, content in self.files.items():
                tree.append({"type": "file", "path": path, "size": len(content), "oid": SHA})
            self.answer(tree)
        elif self.path.startswith(f"/api/models/{REPOSITORY}"):
            siblings = [{"rfilename": path} for path in self.files]
            self.answer({"id": REPOSITORY, "sha": SHA, "siblings": siblings})
        else:
            self.answer({"error": self.path}, 404)

    do_HEAD = do_GET  # noqa: N815

    def answer(self, content, status=200):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", SHA)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    handler = type("OneHub", (Hub,), {"files": {}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield handler
    server.shutdown()
    server.server_close()


def test_a_pushed_student_is_loaded_by_its_name(hub, recipe, tmp_path, monkeypatch):
    run_recipe(load_recipe(recipe, ["evaluation.max_images=1"]), tmp_path / "run")
    export(tmp_path / "run", tmp_path / "exported")
    assert push(tmp_path / "exported", REPOSITORY).endswith(REPOSITORY)
    pushed = hub.files
    hub.files = {}
    # The command exports by itself.
    monkeypatch.setattr("sys.argv", ["distillkit", "push", str(tmp_path / "run"), REPOSITORY])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code and hub.files.keys() == pushed.keys()
    exported = {}
    for path in (tmp_path / "exported").rglob("*"):
        if path.is_file():
            name = path.relative_to(tmp_path / "exported").as_posix()
            exported[name] = path.read_bytes()
    assert hub.files == exported
    image = torch.rand(3, 16, 16)
    expected = Restorer.from_pretrained(tmp_path / "run", "cpu")(image, 0.5)
    assert torch.equal(Restorer.from_pretrained(REPOSITORY, "cpu")(image, 0.5), expected)
    own = DistilledRestorationPipeline.from_pretrained(REPOSITORY, cache_dir=tmp_path / "second")
    plain = DiffusionPipeline.from_pretrained(
        huggingface_hub.snapshot_download(REPOSITORY), trust_remote_code=True
    )
    assert torch.equal(own(image, 0.5).images[0], expected)
    assert torch.equal(plain(image, 0.5).images[0], expected)


def test_the_hubs_refusal_is_an_error(hub, tmp_path):
    hub.refuse = True
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(DistillkitError, match="me/student - not uploaded: .*403"):
        push(tmp_path, REPOSITORY)
    with pytest.raises(DistillkitError, match="no plugin's trained student, and not on the Hub"):
        Restorer.from_pretrained("me/another")
