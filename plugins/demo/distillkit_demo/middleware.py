"""What stands between the network and Gradio: only what the page needs passes, and no path of this machine does."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

MASK = "/files"
"""What the folder of uploads and results is called outside."""
API = "/gradio_api"
MAX_BODY = 1 << 20
"""Bytes of a request that is no upload, and of what surrounds an uploaded file."""

_PAGE = (
    r"/|/config/?|/(assets|static|svelte)/.*|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json"
)
_CALLS = r"info/?|startup-events|upload|upload_progress|queue/(join|data)|heartbeat/.*|reset/?|cancel|theme\.css"
_OPEN = re.compile(f"{_PAGE}|{API}/({_CALLS}|file={MASK}/.*)")
_JOIN, _UPLOAD, _FILE = f"{API}/queue/join", f"{API}/upload", f"{API}/file="
_TEXT = re.compile(rb"text/(html|plain|event-stream|css)|application/json")

logger = logging.getLogger(__name__)
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Gate:
    """ASGI middleware around Gradio, most of whose routes a demo of one page has no use for.

    Gradio tells clients where on the disk their files are, takes such paths from them, and would fetch addresses that they name.
    Outside, the folder is called :data:`MASK`; a request that names any other path or address as a file is refused.

    Args:
        folder: Gradio's folder for files. max_upload: bytes of an uploaded file.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], folder: Path, max_upload: int) -> None:
        self.app, self.folder, self.max_upload = app, str(folder), max_upload
        spellings = {
            self.folder,
            quote(self.folder),
            json.dumps(self.folder)[1:-1],
            quote(self.folder, safe=""),
        }
        self._spellings = re.compile(
            b"|".join(re.escape(s.encode()) for s in sorted(spellings, key=len, reverse=True))
        )

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        path: str = scope["path"]
        if not _OPEN.fullmatch(path) or ".." in path.split("/"):
            await _answer(send, 404, "not found")
            return
        if path == _UPLOAD:
            length = dict(scope["headers"]).get(b"content-length", b"")
            if not length.isdigit():
                await _answer(send, 411, "uploads must say how long they are")
                return
            if int(length) > self.max_upload + MAX_BODY:
                await _body(receive, 0)
                await _answer(
                    send,
                    413,
                    f"the file is larger than the {self.max_upload / 2**20:g} MB that this demo takes",
                )
                return
        elif scope["method"] == "POST":
            body = await _body(receive, MAX_BODY)
            try:
                scope, receive = _with_body(scope, self._inward(body) if path == _JOIN else body)
            except ValueError as e:
                await _answer(send, 400, str(e))
                return
        elif path.startswith(_FILE):
            scope = {**scope, "path": _FILE + self.folder + path.removeprefix(_FILE + MASK)}
        await self._pass_on(scope, receive, send)

    def _inward(self, body: bytes) -> bytes:
        """A call with masked paths -> the same with real ones."""
        try:
            call = json.loads(body)
        except (ValueError, RecursionError):
            raise ValueError("not JSON") from None
        return json.dumps(self._unmasked(call)).encode()

    def _unmasked(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._unmasked(v) for v in value]
        if not isinstance(value, dict):
            return value
        if "path" not in value:
            return {k: self._unmasked(v) for k, v in value.items()}
        path = value["path"]
        if not isinstance(path, str) or not path.startswith(MASK + "/") or ".." in path.split("/"):
            raise ValueError("no such file here")
        return {
            **{k: v for k, v in value.items() if k != "url"},
            "path": self.folder + path.removeprefix(MASK),
        }

    async def _pass_on(self, scope: Message, receive: Receive, send: Send) -> None:
        started = masked = False

        async def outward(message: Message) -> None:
            nonlocal started, masked
            if message["type"] == "http.response.start":
                started, headers = True, message["headers"]
                masked = bool(_TEXT.match(dict(headers).get(b"content-type", b"")))
                if masked:
                    message = {
                        **message,
                        "headers": [(k, v) for k, v in headers if k != b"content-length"],
                    }
            elif masked and message["type"] == "http.response.body":
                message = {
                    **message,
                    "body": self._spellings.sub(MASK.encode(), message.get("body", b"")),
                }
            await send(message)

        try:
            await self.app(scope, receive, outward)
        except Exception:  # Gradio's, on a call that its page would not make
            if started:
                raise
            logger.exception("%s %s", scope["method"], scope["path"])
            await _answer(send, 500, "this call cannot be answered")


async def _body(receive: Receive, limit: int) -> bytes:
    """All of a request is read, lest its sender miss the answer; beyond ``limit`` it is forgotten."""
    body, more = b"", True
    while more:
        message = await receive()
        body = (body + message.get("body", b""))[: limit + 1]
        more = message.get("more_body", False)
    return body if len(body) <= limit else b""


def _with_body(scope: Message, body: bytes) -> tuple[Message, Receive]:
    headers = [(k, v) for k, v in scope["headers"] if k != b"content-length"]
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return pending.pop() if pending else {"type": "http.disconnect"}

    return {**scope, "headers": [*headers, (b"content-length", str(len(body)).encode())]}, receive


async def _answer(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})
