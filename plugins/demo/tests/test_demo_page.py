"""The demo in a real browser: photos are uploaded, the tradeoff is moved, the picture changes."""

import shutil
from urllib.parse import urlsplit

import pytest
from demo_client import DemoClient, WatchedRestorer, free_port, photo, student_with_tradeoff

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'distillkit[demo]'")
sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install 'distillkit[demo-test]'"
)
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")

PICTURES = (
    "[...document.querySelectorAll('#compare img')]"
    ".map(i => i.complete && i.naturalWidth ? i.src : '')"
)
# The page draws its parts one after another, and a part anew when it changes: "" meanwhile.
STATUS = "(document.querySelector('#status')?.innerText ?? '')"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def restorer():
    return WatchedRestorer(student_with_tradeoff())


@pytest.fixture(scope="module")
def address(restorer):
    from distillkit_demo.page import serve

    limits = {"max_pixels": 10_000, "max_upload": 200_000}
    with serve(restorer, "A toy", port=free_port(), **limits) as address:
        yield address


@pytest.fixture
def page(browser, address):
    """The opened page, with its requests in ``asked`` and its errors in ``failed``."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(60_000)
    page.asked = []
    page.failed = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("pageerror", lambda error: page.failed.append(str(error)))
    page.goto(address)
    page.wait_for_selector("#photo input[type=file]", state="attached")
    yield page
    page.close()


def choose(page, content, name="photo.png"):
    file = {"name": name, "mimeType": "image/png", "buffer": content}
    page.set_input_files("#photo input[type=file]", file)


def shown(page, before=()):
    """The addresses of both pictures, once they are loaded and others than ``before``."""
    both_are_new = "p[1] && p.every(Boolean) && p != '' + old"
    page.wait_for_function(f"old => {{ const p = {PICTURES}; return {both_are_new} }}", arg=before)
    return page.evaluate(PICTURES)


def test_a_photo_is_uploaded_the_tradeoff_moved_and_the_picture_changes(page, address):
    choose(page, photo(40, 60))
    page.wait_for_function(f"{STATUS}.includes('60 x 40 → 120 x 80 pixels')")
    middle = shown(page)
    page.focus("#tradeoff input[type=range]")
    page.keyboard.press("End")
    faithful = shown(page, middle)
    assert faithful[0] == middle[0] and faithful[1] != middle[1]
    pixels = [page.request.get(picture).body() for picture in (middle[1], faithful[1])]
    assert pixels[0] != pixels[1]
    page.click("#left label:has-text('most faithful')")
    assert len(set(shown(page, faithful))) == 1
    with page.expect_download() as download:
        page.click("text=Download")
    assert download.value.suggested_filename == "restored_t1.png"
    requests = [url for url in page.asked if not url.startswith(("data:", "blob:"))]
    assert {urlsplit(url).netloc for url in requests} == {urlsplit(address).netloc}
    assert page.failed == []


def test_what_cannot_be_restored_is_said_and_the_next_photo_goes_on(page):
    choose(page, b"no picture")
    page.wait_for_function(f"{STATUS}.includes('not an image of a known format')")
    page.click("#photo button[aria-label='Clear']")
    choose(page, photo(200, 100))
    page.wait_for_function(f"{STATUS}.includes('100 x 200 pixels are more than the 0.01 million')")
    page.click("#photo button[aria-label='Clear']")
    choose(page, photo(10, 20))
    page.wait_for_function(f"{STATUS}.includes('20 x 10 → 40 x 20 pixels')")
    assert len(shown(page)) == 2


@pytest.mark.parametrize("size", [250_000, 3_000_000])
def test_a_file_that_is_too_large_is_said_to_be(page, size):
    choose(page, bytes(size))
    page.wait_for_selector("text=/File is too large|maximum allowed size|larger than the/i")


def test_a_full_queue_is_said_to_be_full(page, restorer, address):
    from distillkit_demo.page import MAX_WAITING_CALLS

    restorer.open.clear()
    try:
        accepted = []
        for i in range(MAX_WAITING_CALLS + 2):
            client = DemoClient(address)
            path = client.upload(photo(6, 7 + i))
            if client.join(path).is_success:
                accepted.append(client)
        choose(page, photo(11, 13))
        page.wait_for_selector("text=This application is currently busy. Please try again.")
    finally:
        restorer.open.set()
    assert all(client.result()[0] for client in accepted)
    page.click("button:has-text('Restore')")
    page.wait_for_function(f"{STATUS}.includes('13 x 11 → 26 x 22 pixels')")
