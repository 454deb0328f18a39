"""Measure how fast the page that restores photos answers, in headless Chromium.

``python benchmarks/page.py ADDRESS [--sizes 128x128,500x500] [--moves 50]``

ADDRESS is that of ``distillkit demo``, or of the ``index.html`` that ``export --web`` writes
(``file:///...``). A photo of each size is opened. Printed are the seconds until it is restored at
the first node and at all of them, and milliseconds from a press of an arrow key on the slider until
its frame is drawn, the median and the slowest of all moves. One move waits until the picture of the
one before is exact. Without a graphics card Chromium draws in software.
"""

from __future__ import annotations

import argparse
import io
import shutil
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

from PIL import Image
from restore import find_photo, mirror_to

from distillkit.files.images import decode_image

# The task that a frame's callback posts runs once the frame is drawn.
NOTE_TIMES = """() => {
    window.restored = [];
    window.moved = [];
    const { comparison } = page;
    const add = comparison.add;
    comparison.add = (...node) => {
        restored.push((performance.now() - opened) / 1000);
        add.apply(comparison, node);
    };
    tradeoff.addEventListener("input", ({ timeStamp }) => requestAnimationFrame(() => {
        const drawn = new MessageChannel();
        drawn.port1.onmessage = () => moved.push(performance.now() - timeStamp);
        drawn.port2.postMessage(null);
    }));
}"""


class Times(NamedTuple):
    """What the page took for one photo."""

    restored: Sequence[float]
    """Seconds until each node was restored."""
    moved: Sequence[float]
    """Milliseconds of each move."""


def main() -> None:
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("address", metavar="ADDRESS")
    parser.add_argument(
        "--sizes", default="128x128,500x500", help="WIDTHxHEIGHT, ... (default: %(default)s)"
    )
    parser.add_argument("--moves", type=int, default=50, help="default: %(default)s")
    options = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(options.address)
        page.wait_for_selector("#file:enabled", state="attached")
        page.evaluate(NOTE_TIMES)
        print(f"Chromium {browser.version}")
        print(f"{'photo':>9}{'first node s':>14}{'all s':>8}{'move ms':>9}{'slowest':>9}")
        for size in options.sizes.split(","):
            print(format_row(size, measure(page, size, options.moves)), flush=True)
        browser.close()


def measure(page: Any, size: str, moves: int) -> Times:
    """Open a photo, and move the slider there and back."""
    width, height = map(int, size.split("x"))
    content = io.BytesIO()
    photo = mirror_to(decode_image(find_photo()), height, width)
    Image.fromarray(photo).save(content, "PNG")
    page.evaluate("() => { restored.length = moved.length = 0; window.opened = performance.now() }")
    file = {"name": "photo.png", "mimeType": "image/png", "buffer": content.getvalue()}
    page.set_input_files("#file", file)
    page.wait_for_function("() => restored.length === NODES.length", timeout=0)
    page.focus("#tradeoff:enabled")
    for number in range(moves):
        wait(page, "() => !page.comparison.frame")
        page.keyboard.press("ArrowLeft" if number < moves / 2 else "ArrowRight")
        wait(page, f"() => moved.length === {number + 1}")
    return Times(page.evaluate("restored"), page.evaluate("moved"))


def wait(page: Any, condition: str) -> None:
    # Asked at every frame, as is the default, the page would always be drawing.
    page.wait_for_function(condition, polling=100)


def format_row(size: str, times: Times) -> str:
    first, *_, last = times.restored
    return f"{size:>9}{first:14.2f}{last:8.2f}{median(times.moved):9.1f}{max(times.moved):9.1f}"


if __name__ == "__main__":
    main()
