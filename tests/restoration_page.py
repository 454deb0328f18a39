"""Drives the page that restores photos, of the demo and of ``export --web``, as a person does."""

import io
import shutil

import numpy as np
from PIL import Image

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
SOFTWARE_WEBGPU = [
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan",
]
"""Arguments with which a Chromium without a graphics card imitates one."""
PIXELS = """canvas => [
    canvas.width, canvas.height,
    [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data],
]"""

# A small photo is restored faster than anybody looks: the page itself has to notice.
NOTICE_RESTORED = """() => {
    delete document.body.dataset.restored;
    const controls = document.querySelector("#controls");
    const observer = new MutationObserver(() => {
        if (controls.disabled) return;
        observer.disconnect();
        document.body.dataset.restored = "yes";
    });
    observer.observe(controls, { attributeFilter: ["disabled"] });
}"""


def watch(page):
    """Note the page's requests in ``asked``, and its errors in ``failed``."""
    page.set_default_timeout(60_000)
    page.asked = []
    page.failed = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.failed.append(str(error)))


def wait_until_ready(page):
    page.wait_for_selector("#file:enabled", state="attached")


def choose(page, content, name="photo.png"):
    """Open a file."""
    file = {"name": name, "mimeType": "image/png", "buffer": content}
    page.set_input_files("#file", file)


def wait_until_restored(page):
    page.wait_for_selector("#controls:enabled")


def encode(image):
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


def upload(page, image, name="photo.png"):
    """Open an image, and wait until it is restored at all nodes."""
    page.evaluate(NOTICE_RESTORED)
    choose(page, encode(image), name)
    page.wait_for_selector("body[data-restored]")
    wait_until_restored(page)


def pixels(page, canvas="#after"):
    """Read a canvas (height, width, RGBA), after the next frame."""
    page.evaluate("new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)))")
    width, height, data = page.eval_on_selector(canvas, PIXELS)
    return np.array(data).reshape(height, width, 4)


def move(page, tradeoff):
    page.locator("#tradeoff").fill(str(tradeoff))


def pick(page, tool):
    page.check(f"[name=tool][value={tool}]")


def point(page, x, y, selector="#after"):
    """Return where a picture's point is on the screen, given as shares of its sides."""
    box = page.locator(selector).bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def save(page):
    """Download the photo: its pixels and its name."""
    with page.expect_download() as download:
        page.click("#download")
    picture = Image.open(download.value.path())
    return np.asarray(picture).astype(int), download.value.suggested_filename


def noise(height, width, channels=3):
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (height, width, channels), dtype=np.uint8))
