"""ASGI middleware between the network and Gradio: it lets through only what the page needs."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse

MASK = "/files"
"""The name that clients know the folder of uploads and results by."""
API = "/gradio_api"
MAX_BODY = 1 << 20
"""Bytes of a request that is no upload, and of what surrounds an uploaded file."""

_JOIN = f"{API}/queue/join"
_UPLOAD = f"{API}/upload"
_FILE = f"{API}/file="

_PAGE_PATHS = (
    "/|/config/?|/(assets|static|svelte)/.*"
    r"|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json"
)
_API_PATHS = (
    r"info/?|startup-events|upload|upload_progress|queue/(join|data)|heartbeat/.*|reset/?|cancel"
    rf"|theme\.css|file={MASK}/.*"
)
_ALLOWED_PATHS = re.compile(f"{_PAGE_PATHS}|{API}/({_API_PATHS})")
_TEXT_TYPES = re.compile(r"text/(html|plain|event-stream|css)|application/json")

logger = logging.getLogger(__name__)
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class GradioGuardMiddleware:
    """Closes the routes of Gradio that the demo has no use for, and hides this machine's paths.

    Gradio tells clients where on the disk their files are, takes such paths from them, and would
    fetch addresses that they name. Through this middleware the folder is called :data:`MASK`, and
    a request that names any other path or address as a file is refused.

    Args:
        app: Gradio's own application.
        folder: Gradio's folder for files.
        max_upload: Bytes of the largest file that may be uploaded.
    """

    def __init__(self, app: App, folder: Path, max_upload: int) -> None:
        self.app = app
        self.folder = str(folder)
        self.max_upload = max_upload
        self._spellings = _match_spellings(self.folder)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one connection; those that are neither HTTP nor the server's own are dropped."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        if scope["type"] != "http":
            return
        try:
            scope, receive = await self._check(scope, receive)
        except HTTPException as refused:
            answer = PlainTextResponse(refused.detail, refused.status_code)
            await answer(scope, receive, send)
            return
        await self._forward(scope, receive, send)

    async def _check(self, scope: Message, receive: Receive) -> tuple[Message, Receive]:
        """Refuse a request, or return what Gradio shall see of it."""
        path: str = scope["path"]
        if not _ALLOWED_PATHS.fullmatch(path) or ".." in path.split("/"):
            raise HTTPException(404, "not found")
        if path == _UPLOAD:
            await self._check_upload(scope, receive)
        elif scope["method"] == "POST":
            body = await _read_body(receive, MAX_BODY)
            if path == _JOIN:
                body = self._unmask_call(body)
            return _with_body(scope, body)
        elif path.startswith(_FILE):
            real_path = self.folder + path.removeprefix(_FILE + MASK)
            return {**scope, "path": _FILE + real_path}, receive
        return scope, receive

    async def _check_upload(self, scope: Message, receive: Receive) -> None:
        length = Headers(scope=scope).get("content-length", "")
        if not length.isdigit():
            raise HTTPException(411, "uploads must say how long they are")
        if int(length) > self.max_upload + MAX_BODY:
            await _read_body(receive, 0)
            megabytes = self.max_upload / 2**20
            raise HTTPException(
                413, f"the file is larger than the {megabytes:g} MB that this demo takes"
            )

    def _unmask_call(self, body: bytes) -> bytes:
        """Put real paths in the place of the masked ones in a call of the page."""
        try:
            call = json.loads(body)
        except (ValueError, RecursionError):
            raise HTTPException(400, "not JSON") from None
        return json.dumps(self._unmask(call)).encode()

    def _unmask(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._unmask(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "path" in value:
            return self._unmask_file(value)
        return {key: self._unmask(item) for key, item in value.items()}

    def _unmask_file(self, file: dict[str, Any]) -> dict[str, Any]:
        path = file["path"]
        is_masked = isinstance(path, str) and path.startswith(f"{MASK}/")
        if not is_masked or ".." in path.split("/"):
            raise HTTPException(400, "no such file here")
        unmasked = {**file, "path": self.folder + path.removeprefix(MASK)}
        # Gradio would fetch this address.
        unmasked.pop("url", None)
        return unmasked

    async def _forward(self, scope: Message, receive: Receive, send: Send) -> None:
        response = _MaskedResponse(send, self._spellings)
        try:
            await self.app(scope, receive, response.send)
        except Exception:
            # Gradio raises on calls that its own page would not make.
            if response.started:
                raise
            logger.exception("%s %s", scope["method"], scope["path"])
            answer = PlainTextResponse("this call cannot be answered", 500)
            await answer(scope, receive, send)


class _MaskedResponse:
    """Sends a response on, with the folder masked wherever a text names it."""

    def __init__(self, send: Send, spellings: re.Pattern[bytes]) -> None:
        self.started = False
        self._send = send
        self._spellings = spellings
        self._is_text = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            message = self._start(message)
        elif message["type"] == "http.response.body" and self._is_text:
            masked = self._spellings.sub(MASK.encode(), message.get("body", b""))
            message = {**message, "body": masked}
        await self._send(message)

    def _start(self, message: Message) -> Message:
        self.started = True
        headers = MutableHeaders(raw=list(message["headers"]))
        content_type = headers.get("content-type", "")
        self._is_text = _TEXT_TYPES.match(content_type) is not None
        if self._is_text:
            # Masking changes the length.
            del headers["content-length"]
        return {**message, "headers": headers.raw}


def _match_spellings(folder: str) -> re.Pattern[bytes]:
    """Match a folder as it is written in plain text, in addresses and in JSON."""
    in_json = json.dumps(folder).strip('"')
    spellings = {folder, quote(folder), quote(folder, safe=""), in_json}
    longest_first = sorted(spellings, key=len, reverse=True)
    pattern = "|".join(re.escape(spelling) for spelling in longest_first)
    return re.compile(pattern.encode())


async def _read_body(receive: Receive, limit: int) -> bytes:
    """Read a request to its end, and return its body; beyond ``limit`` bytes, return nothing.

    A sender whose request is not read to its end would miss the answer.
    """
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        body = body[: limit + 1]
        more = message.get("more_body", False)
    if len(body) > limit:
        return b""
    return body


def _with_body(scope: Message, body: bytes) -> tuple[Message, Receive]:
    """Return the request as if it had been sent with this body."""
    headers = MutableHeaders(raw=list(scope["headers"]))
    headers["content-length"] = str(len(body))
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if pending:
            return pending.pop()
        return {"type": "http.disconnect"}

    return {**scope, "headers": headers.raw}, receive
