"""A client of the demo without a browser: it makes the calls of the page, and keeps all answers."""

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
from distillkit.adapters import add_adapter
from distillkit.inference.student import Student
from distillkit.objectives.adapter_scaling import AdapterScaling

API = "/gradio_api"


@dataclass
class DemoClient:
    address: str
    answers: list[str] = field(default_factory=list)
    """Every text that the server answered with."""

    def __post_init__(self):
        self.http = httpx.Client(base_url=self.address, timeout=60, trust_env=False)
        self.session = uuid.uuid4().hex

    def request(self, method, path, **options):
        answer = self.http.request(method, path, **options)
        self.answers.append(str(answer.headers))
        if "image" not in answer.headers.get("content-type", ""):
            self.answers.append(answer.text)
        return answer

    def upload(self, content, name="photo.png"):
        """Upload a file, and return the path by which the server knows it."""
        answer = self.request("POST", f"{API}/upload", files={"files": (name, content)})
        assert answer.status_code == 200, answer.text
        return answer.json()[0]

    def join(self, file, tradeoff=0.5, compared="the photo, enlarged"):
        """Queue a call of the page for an uploaded file, given by its path."""
        if file is not None and not isinstance(file, dict):
            file = {"path": file, "meta": {"_type": "gradio.FileData"}}
        call = {
            "data": [file, tradeoff, compared],
            "fn_index": 0,
            "session_hash": self.session,
        }
        return self.request(
            "POST",
            f"{API}/queue/join",
            content=json.dumps(call),
            headers={"content-type": "application/json"},
        )

    def result(self):
        """Wait for the outputs of the queued call: pictures, download and status.

        None where the server had no outputs.
        """
        query = {"session_hash": self.session}
        with self.http.stream("GET", f"{API}/queue/data", params=query) as response:
            for line in response.iter_lines():
                self.answers.append(line)
                if not line.startswith("data:"):
                    continue
                message = json.loads(line.removeprefix("data:"))
                if message.get("msg") == "process_completed":
                    return message["output"].get("data")
        return None

    def restore(self, content, *settings, name="photo.png"):
        """Upload a photo, and return the outputs of its restoration."""
        assert self.join(self.upload(content, name), *settings).status_code == 200
        return self.result()

    def fetch(self, file):
        """Download a file of the outputs."""
        answer = self.http.get(file["url"])
        assert answer.status_code == 200
        return answer.content


class WatchedRestorer(Restorer):
    """Counts its calls; each waits until ``open`` is set, and raises ``error`` if there is one."""

    def __init__(self, student):
        super().__init__(student)
        self.calls = 0
        self.open = threading.Event()
        self.open.set()
        self.error = None

    def __call__(self, *arguments, **options):
        self.calls += 1
        assert self.open.wait(60)
        if self.error:
            raise self.error
        return super().__call__(*arguments, **options)


def student_with_tradeoff():
    model = ToyModel()
    variant = AdapterScaling(model, add_adapter(model.network, "lora", rank=2))
    for tensor in variant.tensors().values():
        tensor.data.fill_(0.3)
    model.requires_grad_(False).eval()
    return Student(model, variant)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def photo(height=20, width=30, kind="PNG", mode="RGB", **options):
    """Encode random pixels as an image file."""
    rng = np.random.default_rng(height * width)
    array = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(array).convert(mode).save(file, kind, **options)
    return file.getvalue()
