"""Serve the demo on this machine until SIGINT or SIGTERM."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from distillkit import DistillkitError, Restorer

try:
    import uvicorn

    from distillkit_demo.app import DemoApp
    from distillkit_demo.middleware import GuardMiddleware
except ImportError as e:
    raise DistillkitError(
        f"the demo needs {e.name}, which is not installed: pip install 'distillkit[demo]'"
    ) from e


@contextmanager
def serve(
    restorer: Restorer,
    title: str,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    max_pixels: int = 1_000_000,
    max_upload: int = 50 << 20,
    max_memory: int = 1 << 30,
    allowed_hosts: Sequence[str] = (),
) -> Iterator[str]:
    """Serve the demo as long as the context is open.

    Args:
        restorer: What to restore with, one photo at a time.
        title: Heading of the page.
        host: Address to listen on.
        port: Port to listen on.
        max_pixels: How many pixels of a photo are restored at once.
        max_upload: Bytes of the largest file that may be uploaded.
        max_memory: Bytes of all photos in the queue; a further one is refused with status 503.
        allowed_hosts: Names that browsers may know this machine by, besides its own.

    Yields:
        The address of the page.

    Raises:
        DistillkitError: The port is taken, or the address is not this machine's.
    """
    listening = _listen(host, port)
    app = DemoApp(restorer, title, max_pixels, max_upload)
    guard = GuardMiddleware(
        app.routes(), max_upload=max_upload, max_memory=max_memory, names=(host, *allowed_hosts)
    )
    server = uvicorn.Server(
        uvicorn.Config(
            guard,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
        )
    )
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://{host}:{port}"
    finally:
        server.should_exit = True
        app.close()
        thread.join()


def wait_for_stop_signal() -> None:
    """Wait for SIGINT or SIGTERM."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    stopped.wait()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as e:
        raise DistillkitError(
            f"{host}:{port} - cannot listen there ({e.strerror}); choose another --host or --port"
        ) from e
