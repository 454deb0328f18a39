"""Pushing to and loading from a server on this machine that speaks the Hub's calls, as far as they are needed."""

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
            asked = json.loads(body)["files"]
            self.answer(
                {
                    "files": [
                        {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                        for f in asked
                    ]
                }
            )
        elif self.path.startswith(f"/api/models/{REPOSITORY}/commit/main"):
            lines = [json.loads(line) for line in body.splitlines()]
            self.files.update(
                {
                    x["value"]["path"]: base64.b64decode(x["value"]["content"])
                    for x in lines
                    if x["key"] == "file"
                }
            )
            self.answer({"commitUrl": f"{address}/commit/{SHA}", "commitOid": SHA, "success": True})
        else:
            self.answer({"error": self.path}, 404)

    def do_GET(self):
        name = self.path.partition(f"/{REPOSITORY}/resolve/{SHA}/")[2]
        if name in self.files:
            self.answer(self.files[name])
        elif self.path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            self.answer(
                [
                    {"type": "file", "path": f, "size": len(c), "oid": SHA}
                    for f, c in self.files.items()
                ]
            )
        elif self.path.startswith(f"/api/models/{REPOSITORY}"):
            self.answer(
                {"id": REPOSITORY, "sha": SHA, "siblings": [{"rfilename": f} for f in self.files]}
            )
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
    pushed, hub.files = hub.files, {}
    monkeypatch.setattr(
        "sys.argv", ["distillkit", "push", str(tmp_path / "run"), REPOSITORY]
    )  # exports by itself
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code and hub.files.keys() == pushed.keys()
    local = {
        p.relative_to(tmp_path / "exported").as_posix(): p.read_bytes()
        for p in (tmp_path / "exported").rglob("*")
        if p.is_file()
    }
    assert hub.files == local
    image = torch.rand(3, 16, 16)
    wanted = Restorer.from_pretrained(tmp_path / "run", "cpu")(image, 0.5)
    assert torch.equal(Restorer.from_pretrained(REPOSITORY, "cpu")(image, 0.5), wanted)
    own = DistilledRestorationPipeline.from_pretrained(REPOSITORY, cache_dir=tmp_path / "second")
    plain = DiffusionPipeline.from_pretrained(
        huggingface_hub.snapshot_download(REPOSITORY), trust_remote_code=True
    )
    assert torch.equal(own(image, 0.5).images[0], wanted) and torch.equal(
        plain(image, 0.5).images[0], wanted
    )


def test_what_the_hub_refuses_is_said(hub, tmp_path):
    hub.refuse = True
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(DistillkitError, match="me/student - not uploaded: .*403"):
        push(tmp_path, REPOSITORY)
    with pytest.raises(DistillkitError, match="no such folder, and not on the Hub"):
        Restorer.from_pretrained("me/another")
