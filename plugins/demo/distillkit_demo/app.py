"""The addresses of the demo: the page's files, and the calls that it makes for a photo."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from distillkit import (
    MAX_SHOWN_PIXELS,
    MAX_SHOWN_SIDE,
    WEB_PAGE_FOLDER,
    DistillkitError,
    PluginError,
    Restorer,
)
from distillkit_demo.call_queue import CallQueue, Work
from distillkit_demo.examples import EXAMPLES, load_examples
from distillkit_demo.service import Answer, Crop, DemoService, OnTile, Size, read_map

SECONDS_BETWEEN_REPORTS = 0.2
logger = logging.getLogger(__name__)


class DemoApp:
    """Answers the requests of the page.

    Args:
        restorer: What to restore with.
        title: Heading of the page.
        max_pixels: How many pixels of a photo are restored at once.
        max_upload: Bytes of the largest file, for the page to say.
    """

    def __init__(self, restorer: Restorer, title: str, max_pixels: int, max_upload: int) -> None:
        self.service = DemoService(restorer, max_pixels)
        self.restorations = CallQueue()
        # Nobody waits for the restorations of others to see a photo.
        self.views = CallQueue()
        self.examples = load_examples(restorer.scale)
        self.settings = self._describe_page(restorer, title, max_pixels, max_upload)

    def routes(self) -> Starlette:
        """Build the application."""
        return Starlette(
            routes=[
                Route("/", self.send_file),
                Route("/student.js", self.send_settings),
                Route("/examples/{name}", self.send_example),
                Route("/photo", self.open, methods=["POST"]),
                Route("/cut", self.cut, methods=["POST"]),
                Route("/find", self.find, methods=["POST"]),
                Route("/restore", self.restore, methods=["POST"]),
                Route("/save", self.save, methods=["POST"]),
                Route("/{name}", self.send_file),
            ]
        )

    def close(self) -> None:
        """Stop what is still worked on."""
        self.restorations.close()
        self.views.close()

    async def send_file(self, request: Request) -> Response:
        """Send a file of the page."""
        name = request.path_params.get("name", "index.html")
        files = {path.name: path for path in WEB_PAGE_FOLDER.iterdir()}
        files["backend.js"] = Path(__file__).with_name("backend.js")
        if name not in files:
            raise HTTPException(404, "not found")
        return FileResponse(files[name])

    async def send_settings(self, request: Request) -> Response:
        """Send what the page has to know of the student."""
        script = f"const STUDENT = {json.dumps(self.settings)};\n"
        return Response(script, media_type="text/javascript")

    async def send_example(self, request: Request) -> Response:
        """Send an example photo."""
        name = request.path_params["name"]
        if name not in self.examples:
            raise HTTPException(404, "not found")
        return Response(self.examples[name], media_type="image/jpeg")

    async def open(self, request: Request) -> Response:
        """Decode a photo for the page to show."""
        content = await request.body()
        return _answer(self.views, lambda on_tile: self.service.open(content))

    async def cut(self, request: Request) -> Response:
        """Send the pixels of a crop."""
        content = await request.body()
        crop = _read_crop(request)
        return _answer(self.views, lambda on_tile: self.service.cut(content, crop))

    async def find(self, request: Request) -> Response:
        """Find faces, text and the like in a crop, by the masks of plugins."""
        content = await request.body()
        crop = _read_crop(request)
        shown = _read_size(request, "shown")
        return _answer(self.restorations, lambda on_tile: self.service.find(content, crop, shown))

    async def restore(self, request: Request) -> Response:
        """Restore a crop for the page to blend."""
        content = await request.body()
        crop = _read_crop(request)
        tradeoff = _read_tradeoff(request)
        shown = _read_size(request, "shown")

        def work(on_tile: OnTile) -> Answer:
            return self.service.restore(content, crop, tradeoff, shown, on_tile)

        return _answer(self.restorations, work)

    async def save(self, request: Request) -> Response:
        """Restore a crop for the download, at one tradeoff or by a map behind the photo."""
        content = await request.body()
        crop = _read_crop(request)
        tradeoff: Any
        if "map" in request.query_params:
            size = _read_size(request, "map")
            start = max(0, len(content) - 4 * size[0] * size[1])
            tradeoff = _or_refuse(lambda: read_map(content[start:], size))
            content = content[:start]
        else:
            tradeoff = _read_tradeoff(request)

        def work(on_tile: OnTile) -> Answer:
            return self.service.save(content, crop, tradeoff, on_tile)

        return _answer(self.restorations, work)

    def _describe_page(
        self, restorer: Restorer, title: str, max_pixels: int, max_upload: int
    ) -> dict[str, Any]:
        student = restorer.student
        size = f", {restorer.scale}x as large" if restorer.scale > 1 else ""
        megapixels = max_pixels / 1e6
        return {
            "title": title,
            "promise": "It goes nowhere but to the machine that runs this page.",
            "about": f"Restores photos{size}, up to {megapixels:g} million pixels at once.",
            # Browsers do not count TIFF among the images, because they do not show it.
            "accept": "image/*,.tif,.tiff",
            "scale": restorer.scale,
            "tradeoff": student.fixed_tradeoff if student.variant is None else None,
            "max_input_pixels": max_pixels,
            # A canvas shows the result only; the server restores any side.
            "max_input_side": max_pixels,
            "max_shown_pixels": MAX_SHOWN_PIXELS,
            "max_shown_side": MAX_SHOWN_SIDE,
            "max_file_bytes": max_upload,
            "findable": " and ".join(self.service.found_names),
            "examples": [
                {"name": name, "alt": EXAMPLES[name].alt, "address": f"examples/{name}"}
                for name in self.examples
            ],
        }


def _answer(queue: CallQueue, work: Work) -> Response:
    return StreamingResponse(_stream(queue, work), media_type="application/octet-stream")


async def _stream(queue: CallQueue, work: Work) -> AsyncIterator[bytes]:
    """Send lines about the progress, and in the end the answer's bytes behind a line on them."""
    job = queue.join(work)
    try:
        finished = asyncio.wrap_future(job.future)
        # Nobody else asks for its error once the caller has left.
        finished.add_done_callback(lambda done: done.cancelled() or done.exception())
        while not finished.done():
            in_front = queue.count_in_front(job)
            if in_front:
                yield _encode({"waiting": in_front})
            elif job.tiles:
                yield _encode({"done": job.done, "all": job.tiles})
            else:
                # Whoever has left is noticed by sending.
                yield _encode({"done": 0, "all": 1})
            await asyncio.wait([finished], timeout=SECONDS_BETWEEN_REPORTS)
        answer = finished.result()
    except Exception as e:
        yield _encode({"failed": _explain(e)})
    else:
        width, height = answer.size
        last = {"width": width, "height": height, "frames": answer.frames}
        yield _encode({**last, "size": len(answer.content)})
        yield answer.content
    finally:
        job.stop()


def _encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def _explain(error: Exception) -> str:
    """Explain to the user of the page why a photo was not restored.

    The texts of models and libraries may name paths of this machine; they go to the log instead.
    """
    if isinstance(error, DistillkitError) and not isinstance(error, PluginError):
        return "Not restored: " + str(error).removeprefix("image - ")
    logger.error("the demo could not restore a photo", exc_info=error)
    return "Not restored: the model failed on this photo. The demo's log says why."


def _read_crop(request: Request) -> Crop:
    left, top, width, height, to_width, to_height = _read_numbers(request, "crop", 6)
    return Crop(left, top, width, height, (to_width, to_height))


def _read_size(request: Request, name: str) -> Size:
    width, height = _read_numbers(request, name, 2)
    return width, height


def _read_numbers(request: Request, name: str, count: int) -> list[int]:
    words = request.query_params.get(name, "").split(",")
    try:
        numbers = [int(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(0 <= number < 1 << 20 for number in numbers):
        raise HTTPException(400, f"{name} is not {count} whole numbers")
    return numbers


def _read_tradeoff(request: Request) -> float:
    try:
        return float(request.query_params.get("tradeoff", ""))
    except ValueError:
        raise HTTPException(400, "tradeoff is not a number") from None


def _or_refuse(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except DistillkitError as e:
        raise HTTPException(400, str(e)) from e
