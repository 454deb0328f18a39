"""ASGI middleware in front of the demo: it checks the sender, size and number of requests."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse

from distillkit import MAX_SHOWN_PIXELS

MAX_CALLS = 32
"""Calls for a photo that are open at once; one is worked on, the others wait."""
MAP_BYTES = 4 * MAX_SHOWN_PIXELS
"""Size of the largest tradeoff map behind a photo to save: a float32 for each pixel on the page."""

_SAFE_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "content-security-policy": (
        "default-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class GuardMiddleware:
    """Refuses requests by their sender, their size, or the number of those that wait.

    A request of another site's page is refused, and one that was sent to a name that is not this
    machine's (DNS rebinding). So are photos that are too large, or too many at once.

    Args:
        app: The demo.
        max_upload: Bytes of the largest photo.
        max_memory: Bytes of all photos that wait.
        names: Names that browsers may know this machine by, besides its own.
    """

    def __init__(
        self, app: App, max_upload: int, max_memory: int, names: Sequence[str] = ()
    ) -> None:
        self.app = app
        self.max_upload = max_upload
        self.max_memory = max_memory
        own = (*names, "localhost", socket.gethostname(), socket.getfqdn())
        self.names = {name.lower() for name in own}
        self._waiting: list[int] = []
        """Bytes of each call that is open."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one connection; those that are not HTTP are dropped."""
        if scope["type"] != "http":
            return
        send = _with_headers(send)
        try:
            self._check_sender(Headers(scope=scope))
            length = self._check_length(scope)
        except HTTPException as refused:
            await _read_to_end(receive)
            answer = PlainTextResponse(refused.detail, refused.status_code)
            await answer(scope, receive, send)
            return
        if scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        self._waiting.append(length)
        try:
            await self.app(scope, receive, send)
        finally:
            self._waiting.remove(length)

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

    def _check_length(self, scope: Message) -> int:
        """Refuse a body that is too long, or one too many; return its length."""
        if scope["method"] != "POST":
            # The demo reads no body of other requests.
            return 0
        text = Headers(scope=scope).get("content-length", "")
        if not text.isdigit():
            raise HTTPException(411, "a photo must come with its length")
        length = int(text)
        limit = self.max_upload
        if scope["path"] == "/save":
            limit += MAP_BYTES
        if length > limit:
            megabytes = self.max_upload / 2**20
            raise HTTPException(
                413, f"the file is larger than the {megabytes:g} MB that this demo takes"
            )
        if len(self._waiting) >= MAX_CALLS or sum(self._waiting) + length > self.max_memory:
            raise HTTPException(503, "too many photos are waiting; try again in a minute")
        return length


def _with_headers(send: Send) -> Send:
    """Tell browsers to load nothing from elsewhere, to show the page in no frame, and the like.

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


async def _read_to_end(receive: Receive) -> None:
    """Read a request without keeping it: a sender who is cut off would miss the answer."""
    more = True
    while more:
        message = await receive()
        more = message.get("more_body", False)
