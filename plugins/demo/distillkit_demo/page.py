"""The page of the demo: a photo, the tradeoff, and a slider between before and after."""

from __future__ import annotations

import html
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from distillkit import DistillkitError, PluginError, Restorer, scratch_folder
from distillkit_demo.service import LONGEST_VIEW_SIDE, DemoService, Photo, RestoredPhoto

# Read when Gradio is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
try:
    import gradio as gr
    from starlette.middleware import Middleware

    from distillkit_demo.middleware import GradioGuardMiddleware
except ImportError as e:
    raise DistillkitError(
        "the demo needs Gradio, which is not installed: pip install 'distillkit[demo]'"
    ) from e

MAX_WAITING_CALLS = 32
"""One call is worked on at a time. A call beyond these is refused, and the page says so."""
COMPARED_TRADEOFFS = {
    "the photo, enlarged": None,
    "most realistic (0)": 0.0,
    "most faithful (1)": 1.0,
}
"""What a result may be compared with, and at which tradeoff it is restored."""
FIRST_STATUS = "Choose a photo to begin."
logger = logging.getLogger(__name__)

_CSS = """
footer { display: none !important; }
.gradio-container {
  width: 100% !important; max-width: 1280px !important; margin: 0 auto !important;
}
.gradio-container main { width: 100% !important; }
.status { min-height: 3em; padding: 0.6em 0.9em; border-radius: 8px; line-height: 1.5; }
.status.refused { background: #fef2f2; color: #991b1b; }
.dark .status.refused { background: #450a0a; color: #fecaca; }
"""
# Nothing that is counted, recorded or offered beyond the page itself.
_LAUNCH_OPTIONS: dict[str, Any] = {
    "share": False,
    "quiet": True,
    "show_error": False,
    "footer_links": [],
    "run_history": False,
    "enable_monitoring": False,
    "ssr_mode": False,
    "mcp_server": False,
    "pwa": False,
}


@contextmanager
def serve(
    restorer: Restorer,
    title: str,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    max_pixels: int = 1_000_000,
    max_upload: int = 20 << 20,
    max_disk: int = 1 << 30,
    allowed_hosts: Sequence[str] = (),
) -> Iterator[str]:
    """Serve the demo as long as the context is open; its files are deleted at the end.

    Args:
        restorer: What to restore with, one photo at a time.
        title: Heading of the page.
        host: Address to listen on.
        port: Port to listen on.
        max_pixels: The largest photo that is accepted.
        max_upload: Bytes of the largest file that may be uploaded.
        max_disk: Bytes of all uploads and results together; the oldest make room for an upload.
        allowed_hosts: Names that browsers may know this machine by, besides its own.

    Yields:
        The address of the page.

    Raises:
        DistillkitError: The port is taken, or the address is not this machine's.
    """
    # Gradio's own error would come later, and not say what to do.
    _refuse_taken_port(host, port)
    with _gradio_folder() as folder, _environment(_without_proxy(host)):
        blocks = _Page(DemoService(restorer, folder, max_pixels), max_upload).build(title)
        guard = Middleware(
            GradioGuardMiddleware,
            folder=folder,
            max_upload=max_upload,
            max_disk=max_disk,
            names=(host, *allowed_hosts),
        )
        try:
            blocks.launch(
                server_name=host,
                server_port=port,
                prevent_thread_lock=True,
                max_file_size=max_upload,
                app_kwargs={"middleware": [guard]},
                theme=gr.themes.Soft(font="system-ui", font_mono="monospace"),
                css=_CSS,
                **_LAUNCH_OPTIONS,
            )
            yield f"http://{host}:{port}"
        finally:
            blocks.close(verbose=False)


def wait_for_stop_signal() -> None:
    """Wait for SIGINT or SIGTERM."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    stopped.wait()


class _Page:
    """The page's components, and what happens when one of them changes."""

    def __init__(self, service: DemoService, max_upload: int) -> None:
        self.service = service
        self.max_upload = max_upload
        self.has_tradeoff = service.restorer.student.variant is not None

    def build(self, title: str) -> gr.Blocks:
        # Every ten minutes, files older than an hour are deleted.
        with gr.Blocks(
            title=f"distillkit: {title}", analytics_enabled=False, delete_cache=(600, 3600)
        ) as blocks:
            gr.Markdown(self._heading(title))
            with gr.Row():
                with gr.Column(scale=1, min_width=300):
                    inputs = self._build_inputs()
                    status = gr.HTML(_format_status(FIRST_STATUS), elem_id="status")
                    with gr.Row():
                        again = gr.Button("Restore", min_width=120)
                        download = gr.DownloadButton("Download", interactive=False, min_width=120)
                    gr.Markdown(self._limits())
                with gr.Column(scale=3):
                    comparison = gr.ImageSlider(
                        height=640,
                        max_height=640,
                        show_label=False,
                        interactive=False,
                        elem_id="compare",
                    )
            # While a call runs, only the latest change of the page waits.
            gr.on(
                [*(component.change for component in inputs), again.click],
                self.restore,
                inputs,
                [comparison, download, status],
                api_name="restore",
                trigger_mode="always_last",
                concurrency_limit=1,
            )
        return blocks.queue(max_size=MAX_WAITING_CALLS)

    def restore(
        self, content: bytes | None, tradeoff: float, compared: str
    ) -> tuple[Any, gr.DownloadButton, str]:
        """Answer a call of the page with the two pictures, the download and the status."""
        no_download = gr.DownloadButton(value=None, interactive=False)
        if content is None:
            return None, no_download, _format_status(FIRST_STATUS)
        try:
            photo = self.service.accept(content)
            restored = self.service.restore(photo, tradeoff if self.has_tradeoff else None)
            left = self._compared_view(photo, compared)
        except Exception as e:
            return None, no_download, _format_status(_explain(e), refused=True)
        return (
            (left, restored.view),
            gr.DownloadButton(value=restored.download, interactive=True),
            _format_status(_summarize(photo, restored, compared)),
        )

    def _compared_view(self, photo: Photo, compared: str) -> Path:
        tradeoff = COMPARED_TRADEOFFS[compared]
        if tradeoff is None:
            return photo.view
        return self.service.restore(photo, tradeoff).view

    def _build_inputs(self) -> list[Any]:
        photo = gr.File(label="Photo", type="binary", height=150, elem_id="photo")
        tradeoff = gr.Slider(
            0,
            1,
            0.5,
            step=0.05,
            label="Tradeoff",
            info="0 realistic ... 1 faithful",
            visible=self.has_tradeoff,
            elem_id="tradeoff",
        )
        compared = gr.Radio(
            list(COMPARED_TRADEOFFS),
            value=next(iter(COMPARED_TRADEOFFS)),
            label="Compare with",
            visible=self.has_tradeoff,
            elem_id="left",
        )
        return [photo, tradeoff, compared]

    def _heading(self, title: str) -> str:
        scale = self.service.restorer.scale
        if scale == 1:
            return f"# {title}"
        return f"# {title}\nRestores a photo, {scale}x as large."

    def _limits(self) -> str:
        megapixels = self.service.max_pixels / 1e6
        megabytes = self.max_upload / 2**20
        return (
            f"Up to {megapixels:g} million pixels and {megabytes:g} MB. "
            "A photo goes nowhere but to the machine that runs this page."
        )


def _summarize(photo: Photo, restored: RestoredPhoto, compared: str) -> str:
    before = " x ".join(map(str, photo.picture.size))
    after = " x ".join(map(str, restored.size))
    text = (
        f"Left: {compared}. Right: restored, {before} → {after} pixels in {restored.seconds:.1f} s."
    )
    if photo.frames > 1:
        text += f" The file has {photo.frames} frames; the first is restored."
    if max(restored.size) > LONGEST_VIEW_SIDE:
        text += f" Shown at {LONGEST_VIEW_SIDE} pixels; the download has them all."
    return text


def _explain(error: Exception) -> str:
    """Say why a photo was not restored.

    The texts of models and libraries may name paths of this machine; they go to the log instead.
    """
    if isinstance(error, DistillkitError) and not isinstance(error, PluginError):
        return "Not restored: " + str(error).removeprefix("image - ")
    logger.error("the demo could not restore a photo", exc_info=error)
    return "Not restored: the model failed on this photo. The demo's log says why."


def _format_status(text: str, *, refused: bool = False) -> str:
    classes = "status refused" if refused else "status"
    return f'<div class="{classes}" role="status">{html.escape(text)}</div>'


def _refuse_taken_port(host: str, port: int) -> None:
    try:
        with socket.create_server((host, port)):
            pass
    except OSError as e:
        raise DistillkitError(
            f"{host}:{port} - cannot listen there ({e.strerror}); choose another --host or --port"
        ) from e


@contextmanager
def _gradio_folder() -> Iterator[Path]:
    """Give Gradio a new folder for its files, and delete it at the end."""
    with scratch_folder() as folder, _environment({"GRADIO_TEMP_DIR": str(folder)}):
        yield folder


def _without_proxy(host: str) -> dict[str, str]:
    """Except this machine from the environment's proxies, which Gradio would ask for its page."""
    former = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    names = ",".join(filter(None, [former, "127.0.0.1", "localhost", "::1", host]))
    return {"no_proxy": names, "NO_PROXY": names}


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables inside a context."""
    former = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]
            if name in former:
                os.environ[name] = former[name]
