"""The demo's page: a photo, the tradeoff, and a slider between before and after."""

from __future__ import annotations

import html
import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distillkit.demo.desk import VIEW, Desk, Photo, Result
from distillkit.demo.gate import Gate
from distillkit.errors import DistillkitError, PluginError
from distillkit.inference.restorer import Restorer

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
try:
    import gradio as gr
    from starlette.middleware import Middleware
except ImportError as e:
    raise DistillkitError(
        "the demo needs Gradio, which is not installed: pip install 'distillkit[demo]'"
    ) from e

QUEUE = 32
"""Calls that may wait; one is worked on at a time. A call beyond is refused, and the page says so."""
LEFT = {"the photo, enlarged": None, "most realistic (0)": 0.0, "most faithful (1)": 1.0}
"""What a result may be compared with."""
BEGIN = "Choose a photo to begin."
logger = logging.getLogger(__name__)

_CSS = """
footer { display: none !important; }
.gradio-container { width: 100% !important; max-width: 1280px !important; margin: 0 auto !important; }
.gradio-container main { width: 100% !important; }
.status { min-height: 3em; padding: 0.6em 0.9em; border-radius: 8px; line-height: 1.5; }
.status.refused { background: #fef2f2; color: #991b1b; }
.dark .status.refused { background: #450a0a; color: #fecaca; }
"""


@contextmanager
def serve(
    restorer: Restorer,
    title: str,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    max_pixels: int = 1_000_000,
    max_upload: int = 20 << 20,
) -> Iterator[str]:
    """The demo, as long as the context is open; its files go with it.

    Args:
        restorer: used for one photo at a time. title: what the page calls it.
        max_pixels: of a photo. max_upload: bytes of a file.

    Yields:
        the page's address.

    Raises:
        DistillkitError: the port is taken, or not this machine's.
    """
    _refuse_taken(host, port)
    folder = Path(tempfile.mkdtemp(prefix="distillkit-demo-")).resolve()
    former = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    blocks = _page(Desk(restorer, folder, max_pixels), title, max_upload)
    try:
        blocks.launch(
            server_name=host,
            server_port=port,
            share=False,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            max_file_size=max_upload,
            app_kwargs={"middleware": [Middleware(Gate, folder=folder, max_upload=max_upload)]},
            theme=gr.themes.Soft(font="system-ui", font_mono="monospace"),
            css=_CSS,
        )
        yield f"http://{host}:{port}"
    finally:
        blocks.close(verbose=False)
        shutil.rmtree(folder, ignore_errors=True)
        os.environ.pop("GRADIO_TEMP_DIR")
        if former is not None:
            os.environ["GRADIO_TEMP_DIR"] = former


def wait() -> None:
    """Until SIGINT or SIGTERM."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()


def _page(desk: Desk, title: str, max_upload: int) -> gr.Blocks:
    knob = desk.restorer.student.variant is not None
    limits = f"Up to {desk.max_pixels / 1e6:g} million pixels and {max_upload / 2**20:g} MB."

    def restore(content: bytes | None, tradeoff: float, left: str) -> tuple[Any, Any, str]:
        nothing = gr.DownloadButton(value=None, interactive=False)
        if content is None:
            return None, nothing, _status(BEGIN)
        try:
            photo = desk.photo(content)
            result = desk.restored(photo, tradeoff if knob else None)
            other = photo.view if LEFT[left] is None else desk.restored(photo, LEFT[left]).view
        except Exception as e:
            return None, nothing, _status(_told(e), refused=True)
        return (
            (other, result.view),
            gr.DownloadButton(value=result.whole, interactive=True),
            _status(_summary(photo, result, left)),
        )

    with gr.Blocks(
        title=f"distillkit: {title}", analytics_enabled=False, delete_cache=(600, 3600)
    ) as blocks:
        gr.Markdown(
            f"# {title}\nRestores a photo, {desk.restorer.scale}x as large."
            if desk.restorer.scale > 1
            else f"# {title}"
        )
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                photo = gr.File(label="Photo", type="binary", height=150, elem_id="photo")
                ends = "0 realistic ... 1 faithful"
                tradeoff = gr.Slider(
                    0,
                    1,
                    0.5,
                    step=0.05,
                    label="Tradeoff",
                    info=ends,
                    visible=knob,
                    elem_id="tradeoff",
                )
                left = gr.Radio(
                    list(LEFT),
                    value=next(iter(LEFT)),
                    label="Compare with",
                    visible=knob,
                    elem_id="left",
                )
                status = gr.HTML(_status(BEGIN), elem_id="status")
                with gr.Row():
                    again = gr.Button("Restore", min_width=120)
                    download = gr.DownloadButton("Download", interactive=False, min_width=120)
                gr.Markdown(
                    f"{limits} A photo goes nowhere but to the machine that runs this page."
                )
            with gr.Column(scale=3):
                compare = gr.ImageSlider(
                    height=640,
                    max_height=640,
                    show_label=False,
                    interactive=False,
                    elem_id="compare",
                )
        gr.on(
            [photo.change, tradeoff.change, left.change, again.click],
            restore,
            [photo, tradeoff, left],
            [compare, download, status],
            api_name="restore",
            trigger_mode="always_last",
            concurrency_limit=1,
        )
    return blocks.queue(max_size=QUEUE)


def _summary(photo: Photo, result: Result, left: str) -> str:
    width, height = photo.picture.size
    sizes = f"{width} x {height} → {result.size[0]} x {result.size[1]} pixels in {result.seconds:.1f} s."
    text = f"Left: {left}. Right: restored, {sizes}"
    return text + (
        f" Shown at {VIEW} pixels; the download has them all." if max(result.size) > VIEW else ""
    )


def _told(error: Exception) -> str:
    """What the page says of an error. What a model or a library said may name paths; that goes to the log."""
    if isinstance(error, DistillkitError) and not isinstance(error, PluginError):
        return "Not restored: " + str(error).removeprefix("image - ")
    logger.error("the demo could not restore a photo", exc_info=error)
    return "Not restored: the model failed on this photo. The demo's log says why."


def _status(text: str, *, refused: bool = False) -> str:
    return f'<div class="status{" refused" if refused else ""}" role="status">{html.escape(text)}</div>'


def _refuse_taken(host: str, port: int) -> None:
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as e:
        raise DistillkitError(
            f"{host}:{port} - cannot listen there ({e.strerror}); choose another --host or --port"
        ) from e
