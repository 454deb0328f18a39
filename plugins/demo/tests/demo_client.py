"""A visitor of the demo without a browser: the calls that the page makes, and all text that came back."""

from __future__ import annotations

import io
import json
import socket
import threading
import uuid
from dataclasses import dataclass, field

import httpx
import numpy as np
from PIL import Image
from toy_models import ToyModel

from distillkit import Restorer
from distillkit.adapters.adapters import add_adapter
from distillkit.inference.student import Student
from distillkit.objectives.controllability import AdapterScaling

API = "/gradio_api"


@dataclass
class Visitor:
    address: str
    heard: list[str] = field(default_factory=list)
    """Every text that the server answered with."""

    def __post_init__(self):
        self.http = httpx.Client(base_url=self.address, timeout=60, trust_env=False)
        self.session = uuid.uuid4().hex

    def ask(self, method, path, **how):
        answer = self.http.request(method, path, **how)
        self.heard.append(
            f"{answer.headers}\n{answer.text if 'image' not in answer.headers.get('content-type', '') else ''}"
        )
        return answer

    def upload(self, content, name="photo.png"):
        """The path by which the server knows the file."""
        answer = self.ask("POST", f"{API}/upload", files={"files": (name, content)})
        assert answer.status_code == 200, answer.text
        return answer.json()[0]

    def join(self, path, tradeoff=0.5, left="the photo, enlarged"):
        file = (
            path
            if isinstance(path, dict) or path is None
            else {"path": path, "meta": {"_type": "gradio.FileData"}}
        )
        return self.ask(
            "POST",
            f"{API}/queue/join",
            content=json.dumps(
                {"data": [file, tradeoff, left], "fn_index": 0, "session_hash": self.session}
            ),
            headers={"content-type": "application/json"},
        )

    def result(self):
        """The outputs of the call that was joined, (pictures, download, status), or None where the server had none."""
        with self.http.stream(
            "GET", f"{API}/queue/data", params={"session_hash": self.session}
        ) as lines:
            for line in lines.iter_lines():
                self.heard.append(line)
                message = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                if message.get("msg") == "process_completed":
                    return message["output"].get("data")
        return None

    def restore(self, content, *more, name="photo.png"):
        assert self.join(self.upload(content, name), *more).status_code == 200
        return self.result()

    def fetch(self, file):
        """The content of a file of the outputs."""
        answer = self.http.get(file["url"])
        assert answer.status_code == 200
        return answer.content


class Watched(Restorer):
    """Counts its calls; each waits until ``open`` is set."""

    def __init__(self, student):
        super().__init__(student)
        self.calls, self.open = 0, threading.Event()
        self.open.set()
        self.fails = None

    def __call__(self, *arguments, **options):
        self.calls += 1
        assert self.open.wait(60)
        if self.fails:
            raise self.fails
        return super().__call__(*arguments, **options)


def knobbed():
    model = ToyModel()
    variant = AdapterScaling(model, add_adapter(model.network, "lora", rank=2), "reconstruction")
    for tensor in variant.tensors().values():
        tensor.data.fill_(0.3)
    model.requires_grad_(False).eval()
    return Student(model, variant)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def photo(height=20, width=30, kind="PNG", mode="RGB", **options):
    array = np.random.default_rng(height * width).integers(
        0, 256, (height, width, 3), dtype=np.uint8
    )
    file = io.BytesIO()
    Image.fromarray(array).convert(mode).save(file, kind, **options)
    return file.getvalue()
