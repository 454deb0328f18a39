"""A client of the demo without a browser: it makes the calls of the page, and keeps all answers."""

from __future__ import annotations

import io
import json
import socket
import sys
import threading
import types
from dataclasses import dataclass, field

import httpx
import numpy as np
from PIL import Image
from toy_fixtures import install_plugins
from toy_models import ToyModel

from distillkit import MaskSpec, Restorer, hookimpl
from distillkit.adapters import add_adapter
from distillkit.inference.student import Student
from distillkit.objectives.adapter_scaling import AdapterScaling


@dataclass
class Outcome:
    """What a call ended with."""

    messages: list[dict]
    """Of the progress, and the last one: ``failed``, or the size of the content."""
    content: bytes

    @property
    def failed(self):
        return self.messages[-1].get("failed")

    @property
    def size(self):
        return self.messages[-1]["width"], self.messages[-1]["height"]

    def picture(self):
        return Image.open(io.BytesIO(self.content))

    def pixels(self):
        width, height = self.size
        return np.frombuffer(self.content, np.uint8).reshape(height, width, 3)


@dataclass
class DemoClient:
    address: str
    answers: list[str] = field(default_factory=list)
    """Every text that the server answered with."""

    def __post_init__(self):
        self.http = httpx.Client(base_url=self.address, timeout=60, trust_env=False)

    def request(self, method, path, **options):
        answer = self.http.request(method, path, **options)
        self.answers.append(str(answer.headers))
        if "image" not in answer.headers.get("content-type", ""):
            self.answers.append(answer.text)
        return answer

    def call(self, path, content, **options):
        """Make a call for a photo, and read its answer to the end."""
        answer = self.http.post(path, content=content, params=options)
        assert answer.status_code == 200, answer.text
        self.answers.append(str(answer.headers))
        messages = []
        rest = answer.content
        while rest and "size" not in (messages or [{}])[-1]:
            line, _, rest = rest.partition(b"\n")
            self.answers.append(line.decode())
            messages.append(json.loads(line))
        assert len(rest) == messages[-1].get("size", 0)
        return Outcome(messages, rest)

    def open(self, content):
        return self.call("/photo", content)

    def restore(self, content, width, height, tradeoff=0.5, scale=2):
        """Restore a full photo for the page to show."""
        shown = f"{scale * width},{scale * height}"
        return self.call(
            "/restore", content, crop=full(width, height), tradeoff=tradeoff, shown=shown
        )

    def save(self, content, width, height, tradeoff=0.5):
        """Restore a full photo for the download."""
        return self.call("/save", content, crop=full(width, height), tradeoff=tradeoff)


def full(width, height):
    """Return the crop that is the full photo."""
    return f"0,0,{width},{height},{width},{height}"


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


def install_finder(monkeypatch):
    """Make a plugin with a mask, of what is bright, the only one that is installed."""

    @hookimpl
    def distillkit_masks():
        return [MaskSpec(name="bright", summary="", build="finder_plugin:build")]

    module = types.ModuleType("finder_plugin")
    module.distillkit_masks = distillkit_masks
    module.build = lambda options: lambda image: (image > 0.9).all(axis=2)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    install_plugins(monkeypatch, finder=module.__name__)


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
