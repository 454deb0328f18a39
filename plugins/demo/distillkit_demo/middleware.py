"""ASGI middleware between the network and Gradio: it lets through only what the page needs."""

from __future__ import annotations

import json
import logging
import re
import socket
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

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

_SAFE_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "content-security-policy": "frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
}

logger = logging.getLogger(__name__)
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class GradioGuardMiddleware:
    """Closes the routes of Gradio that the demo has no use for, and hides this machine's paths.

    Gradio tells clients where on the disk their files are, takes such paths from them, and would
    fetch addresses that they name. Through this middleware the folder is called :data:`MASK`, and
    a request that names any other path or address as a file is refused. So are requests of other
    sites' pages, and those that reached this machine by a name that is not its own (DNS rebinding).

    Args:
        app: Gradio's own application.
        folder: Gradio's folder for files.
        max_upload: Bytes of the largest file that may be uploaded.
        max_disk: Bytes of all files together; the oldest make room for an upload.
        names: Names that browsers may know this machine by, besides its own.
    """

    def __init__(
        self,
        app: App,
        folder: Path,
        max_upload: int,
        max_disk: int,
        names: Sequence[str] = (),
    ) -> None:
        self.app = app
        self.folder = str(folder)
        self.max_upload = max_upload
        self.max_disk = max_disk
        own = (*names, "localhost", socket.gethostname(), socket.getfqdn())
        self.names = {name.lower() for name in own}
        self._spellings = _match_spellings(self.folder)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one connection; those that are neither HTTP nor the server's own are dropped."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        if scope["type"] != "http":
            return
        send = _with_headers(send)
        try:
            scope, receive = await self._check(scope, receive)
        except HTTPException as refused:
            answer = PlainTextResponse(refused.detail, refused.status_code)
            await answer(scope, receive, send)
            return
        await self._forward(scope, receive, send)

    async def _check(self, scope: Message, receive: Receive) -> tuple[Message, Receive]:
        """Refuse a request, or return what Gradio shall see of it."""
        self._check_sender(Headers(scope=scope))
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

    def _check_sender(self, headers: Headers) -> None:
        """Refuse a request that was sent to a name not ours, or by a page not ours."""
        host = headers.get("host", "")
        if not self._is_own(_hostname(f"//{host}")):
            raise HTTPException(
                421, "this demo is not known by that name; start it with --allow-host NAME"
            )
        origin = headers.get("origin")
        if origin is not None:
            is_own = urlsplit(origin).netloc == host or _hostname(origin) in self.names
        else:
            # older browsers, and programs that are none, do not say
            is_own = headers.get("sec-fetch-site", "none") in ("same-origin", "none")
            # a link of another site may lead to the page
            is_own = is_own or headers.get("sec-fetch-mode") == "navigate"
        if not is_own:
            raise HTTPException(403, "this demo answers its own page only")

    def _is_own(self, hostname: str) -> bool:
        # Nobody can make a number mean this machine, as a name can be made to.
        with suppress(ValueError):
            return bool(ip_address(hostname))
        return hostname in self.names

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
        _make_room(Path(self.folder), self.max_disk - int(length))

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


def _with_headers(send: Send) -> Send:
    """Tell browsers to keep to content types, to show the page in no frame, and to name it nowhere.

    Args:
        send: Sends the response.
    """

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message.get("headers", [])))
            headers.update(_SAFE_HEADERS)
            message = {**message, "headers": headers.raw}
        await send(message)

    return send_with_headers


def _hostname(address: str) -> str:
    """Return the host of an address, in lower case; nothing where there is none."""
    with suppress(ValueError):
        return urlsplit(address).hostname or ""
    return ""


def _make_room(folder: Path, limit: int) -> None:
    """Delete the oldest files until a folder holds no more than ``limit`` bytes."""
    files = []
    for path in folder.rglob("*"):
        with suppress(OSError):  # deleted meanwhile
            if path.is_file():
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= limit:
            return
        path.unlink(missing_ok=True)
        total -= size


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
