"""The demo in a real browser: photos are opened, the tradeoff is moved and painted."""

from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np
import pytest
from demo_client import (
    DemoClient,
    WatchedRestorer,
    free_port,
    install_finder,
    photo,
    student_with_tradeoff,
)
from PIL import Image
from restoration_page import (
    CHROMIUM,
    NOTICE_RESTORED,
    choose,
    encode,
    move,
    noise,
    pick,
    pixels,
    point,
    save,
    upload,
    wait_until_ready,
    wait_until_restored,
    watch,
)

from distillkit import Restorer

pytest.importorskip("uvicorn", reason="uvicorn is not installed: pip install 'distillkit[demo]'")
sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install --group test"
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")

MAX_PIXELS = 10_000
NAMELESS = """() => [...document.querySelectorAll("button, input, select, canvas, progress, img")]
    .filter(e => e.ariaHidden !== "true")
    .filter(e => ![e.ariaLabel, e.alt, e.labels?.[0]?.textContent, e.textContent]
        .some(text => text?.trim()))
    .map(e => e.outerHTML)"""

PASTE = """bytes => {
    const clipboardData = new DataTransfer();
    clipboardData.items.add(new File([new Uint8Array(bytes)], "scan.png", { type: "image/png" }));
    document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData, bubbles: true }));
}"""


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
    from distillkit_demo.server import serve

    with pytest.MonkeyPatch.context() as patch:
        install_finder(patch)
        yield from serve_page(serve, restorer)


def serve_page(serve, restorer):
    limits = {"max_pixels": MAX_PIXELS, "max_upload": 200_000}
    with serve(restorer, "A toy", port=free_port(), **limits) as address:
        yield address


@pytest.fixture
def page(browser, address):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    watch(page)
    page.goto(address)
    wait_until_ready(page)
    yield page
    assert page.failed == []
    page.close()


@pytest.fixture
def phone(browser, address):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True)
    page = context.new_page()
    watch(page)
    page.goto(address)
    wait_until_ready(page)
    yield page
    assert page.failed == []
    context.close()


def status_has(page, text):
    page.wait_for_selector(f"#status:has-text('{text}')")


def restored_at(restorer, image, tradeoff):
    return np.asarray(Restorer(restorer.student)(image, tradeoff)).astype(int)


def test_the_slider_blends_what_was_restored_once_and_asks_nobody(page, restorer, address):
    image = noise(40, 60)
    upload(page, image)
    status_has(page, "60 x 40 → 120 x 80 pixels.")
    calls = restorer.calls
    requests = len(page.asked)
    shown = {}
    for tradeoff in (0, 0.3, 0.5, 1):
        move(page, tradeoff)
        shown[tradeoff] = pixels(page)[..., :3]
    for node in (0, 0.5, 1):
        assert np.array_equal(shown[node], restored_at(restorer, image, node))
    lagrange = 0.28 * shown[0] + 0.84 * shown[0.5] - 0.12 * shown[1]
    assert np.abs(shown[0.3] - lagrange.clip(0, 255)).max() <= 1
    assert not np.array_equal(shown[0], shown[1])
    assert restorer.calls == calls and len(page.asked) == requests
    netlocs = {urlsplit(url).netloc for url in page.asked if url.startswith("http")}
    assert netlocs == {urlsplit(address).netloc}


def test_a_large_result_is_blended_roughly_at_once_and_then_exactly(page, restorer):
    image = noise(9, 12).resize((116, 86), Image.Resampling.BICUBIC)
    upload(page, image)
    page.evaluate("""() => {
        const { comparison } = page;
        const { blend } = comparison;
        window.drawn = [];
        comparison.maxPixelsPerFrame = 4000;
        comparison.blend = (target, area, step = 1) => {
            drawn.push([step, area.width * area.height]);
            blend.call(comparison, target, area, step);
            if (step > 1) window.rough = target.slice();
        };
    }""")
    move(page, 1)
    page.wait_for_function("() => drawn.length && !page.comparison.frame")
    exact = restored_at(restorer, image, 1)
    rough = np.array(page.evaluate("[...rough]")).reshape(43, 58, 4)
    assert np.array_equal(rough[..., :3], exact[::4, ::4])
    assert page.is_hidden("#cover")
    assert np.array_equal(pixels(page)[..., :3], exact)
    (step, area), *refined = page.evaluate("drawn")
    assert step == 4 and area == 232 * 172
    assert {step for step, _ in refined} == {1} and sum(area for _, area in refined) == area
    assert max(area for _, area in refined) <= 4000 + 232


def test_a_stroke_on_a_large_result_is_drawn_where_it_is_and_then_exactly(page, restorer):
    image = noise(9, 12).resize((116, 86), Image.Resampling.BICUBIC)
    upload(page, image)
    move(page, 0)
    pick(page, "faithful")
    page.fill("#size", "10")
    before = pixels(page)
    page.evaluate("""() => {
        page.comparison.maxPixelsPerFrame = 4000;
        page.comparison.refine = () => {};
    }""")
    page.mouse.click(*point(page, 0.5, 0.5))
    cover = pixels(page, "#cover")
    left, top = page.evaluate("[page.comparison.covered.left, page.comparison.covered.top]")
    middle = slice(84, 89), slice(114, 119)
    exact = restored_at(restorer, image, 1)
    inside = cover[84 - top : 89 - top, 114 - left : 119 - left, :3]
    assert np.array_equal(inside, exact[middle])
    box = page.locator("#cover").bounding_box()
    whole = page.locator("#after").bounding_box()
    assert box["x"] - whole["x"] == pytest.approx(left / 232 * whole["width"], abs=0.1)
    assert box["width"] == pytest.approx(cover.shape[1] / 232 * whole["width"], abs=0.1)
    assert np.array_equal(pixels(page), before)
    page.evaluate("() => { delete page.comparison.refine }")
    page.wait_for_function("() => !page.comparison.frame")
    painted = pixels(page)
    assert np.array_equal(painted[middle][..., :3], exact[middle])
    assert np.array_equal(painted[:40], before[:40])


def test_the_download_is_restored_at_the_final_tradeoff_and_named_after_the_photo(page, restorer):
    image = noise(40, 60, 4)
    upload(page, image, "My photo.v2.png")
    move(page, 0.3)
    calls = restorer.calls
    saved, name = save(page)
    assert name == "My photo.v2_restored_t0.3.png"
    assert np.array_equal(saved, restored_at(restorer, image, 0.3))
    assert restorer.calls == calls + 1
    status_has(page, "Downloaded My photo.v2_restored_t0.3.png.")


def test_the_painted_region_changes_and_the_rest_does_not(page, restorer):
    image = noise(40, 60)
    upload(page, image)
    move(page, 0)
    before = pixels(page)
    pick(page, "faithful")
    page.fill("#size", "20")
    page.mouse.move(*point(page, 0.25, 0.5))
    page.mouse.down()
    page.mouse.move(*point(page, 0.75, 0.5), steps=3)
    page.mouse.up()
    painted = pixels(page)
    faithful = restored_at(restorer, image, 1)
    # The brush has a radius of 12 pixels, paints its inner half wholly and moved from 30 to 90.
    assert np.array_equal(painted[36:44, 30:90, :3], faithful[36:44, 30:90])
    untouched = np.ones((80, 120), bool)
    untouched[27:53, 17:103] = False
    assert np.array_equal(painted[untouched], before[untouched])
    calls = restorer.calls
    levels = page.evaluate("[...page.comparison.painting.toMap(0)]")
    saved, name = save(page)
    assert name == "photo_restored_painted.png" and restorer.calls == calls + 1
    tradeoffs = np.array(levels, np.float32).reshape(80, 120)
    assert tradeoffs[40, 60] == 1 and tradeoffs[0, 0] == 0
    assert np.array_equal(saved, restored_at(restorer, image, tradeoffs))
    page.click("#undo")
    assert np.array_equal(pixels(page), before)
    assert page.is_disabled("#undo")


def test_brushes_paint_over_each_other_erase_clear_and_show_their_map(page):
    upload(page, noise(40, 60))
    move(page, 0.5)
    plain = pixels(page)
    pick(page, "faithful")
    page.mouse.click(*point(page, 0.5, 0.5))
    faithful = pixels(page)
    pick(page, "realistic")
    page.mouse.click(*point(page, 0.5, 0.5))
    realistic = pixels(page)
    assert not np.array_equal(faithful[40, 60], realistic[40, 60])
    page.check("#showMap")
    map_ = pixels(page, "#map")
    assert map_[40, 60].tolist() == [0, 0, 0, 255]
    assert map_[0, 0, 0] in (127, 128)
    pick(page, "erase")
    page.mouse.click(*point(page, 0.5, 0.5))
    assert np.array_equal(pixels(page)[39:42, 59:62], plain[39:42, 59:62])
    page.click("#undo")
    assert np.array_equal(pixels(page), realistic)
    page.click("#clear")
    assert np.array_equal(pixels(page), plain)
    page.click("#undo")
    assert np.array_equal(pixels(page), realistic)


def test_clear_is_there_while_anything_is_painted(page):
    upload(page, noise(40, 60))
    plain = pixels(page)
    pick(page, "faithful")
    assert page.is_disabled("#clear")
    for i in range(12):
        page.mouse.click(*point(page, (i + 0.5) / 12, 0.5))
    while page.is_enabled("#undo"):
        page.click("#undo")
    assert not np.array_equal(pixels(page), plain)
    page.click("#clear")
    assert np.array_equal(pixels(page), plain)
    assert page.is_disabled("#clear")


def test_a_second_finger_paints_nothing(phone):
    upload(phone, noise(40, 60))
    move(phone, 0)
    pick(phone, "faithful")
    fingers = phone.context.new_cdp_session(phone)

    def touch(kind, *points):
        named = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": named})

    first, second = point(phone, 0.2, 0.2), point(phone, 0.8, 0.8)
    touch("touchStart", first)
    one_finger = pixels(phone)
    touch("touchStart", first, second)
    touch("touchMove", first, (second[0], second[1] - 9))
    touch("touchEnd")
    assert np.array_equal(pixels(phone), one_finger)
    assert phone.evaluate("page.comparison.painting.undoStack.length") == 1


def test_what_is_found_is_painted_faithful_and_can_be_taken_away(page, restorer):
    levels = np.asarray(noise(40, 60)) // 2
    levels[10:20, 15:30] = 255
    picture = Image.fromarray(levels)
    upload(page, picture)
    before = pixels(page)
    page.click("text=Keep bright faithful")
    status_has(page, "What was found is painted faithful: bright.")
    faithful = restored_at(restorer, picture, 1.0)
    painted = pixels(page)
    assert np.abs(painted[22:38, 32:58, :3] - faithful[22:38, 32:58]).max() <= 1
    assert np.array_equal(painted[:, 80:], before[:, 80:])
    page.click("#undo")
    assert np.array_equal(pixels(page), before)
    upload(page, Image.fromarray(levels // 2))
    page.click("#find")
    status_has(page, "There is nothing to keep faithful: no bright found.")


def test_the_brush_works_by_keys(page):
    upload(page, noise(40, 60))
    move(page, 0)
    before = pixels(page)
    pick(page, "faithful")
    page.focus("#cursor")
    page.keyboard.press("ArrowLeft")
    assert np.array_equal(pixels(page), before)
    page.keyboard.press("Space")
    assert not np.array_equal(pixels(page)[40, 56], before[40, 56])


def test_before_and_after_are_divided_by_pointer_and_by_keys(page):
    upload(page, noise(40, 60))
    assert page.locator("#divider").bounding_box()["width"] > 100
    page.mouse.click(*point(page, 0.25, 0.5))
    assert float(page.input_value("#divider")) == pytest.approx(25, abs=1)
    assert page.get_attribute("#divider", "aria-valuetext") == "25 % before, 75 % after"
    page.keyboard.press("ArrowRight")
    assert float(page.input_value("#divider")) > 25.5
    page.keyboard.press("End")
    assert page.input_value("#divider") == "100"
    before = pixels(page, "#before")
    page.select_option("#compared", "faithful")
    move(page, 1)
    assert not np.array_equal(pixels(page, "#before"), before)
    assert np.array_equal(pixels(page, "#before"), pixels(page))
    assert page.inner_text("#beforeTag") == "most faithful"


def test_at_1_to_1_a_pixel_is_one_of_the_screen_and_the_stage_scrolls(page):
    upload(page, noise(6, 1500))
    whole = page.locator("#after").bounding_box()
    assert whole["width"] < 1280
    page.mouse.click(*point(page, 0.25, 0.5))
    page.check("#unscaled")
    stage, actual = (page.locator(id).bounding_box() for id in ("#stage", "#after"))
    assert (actual["width"], actual["height"]) == (3000, 12)
    middle = stage["x"] + stage["width"] / 2
    assert point(page, 0.25, 0.5)[0] == pytest.approx(middle, abs=3)  # where the divider is
    page.focus("#stage")
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "x => document.querySelector('#after').getBoundingClientRect().x < x", arg=actual["x"]
    )
    pick(page, "realistic")
    page.focus("#cursor")
    page.keyboard.press("Space")
    cursor = page.locator("#cursor")
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    box = cursor.bounding_box()
    middle = box["x"] + box["width"] / 2
    assert middle == pytest.approx(stage["x"] + stage["width"], abs=1)  # the end is in view
    page.uncheck("#unscaled")
    assert page.locator("#after").bounding_box() == whole


def test_a_photo_is_pasted(page):
    page.evaluate(NOTICE_RESTORED)
    page.evaluate(PASTE, list(encode(noise(20, 30))))
    page.wait_for_selector("body[data-restored]")
    assert page.inner_text("#status") == "30 x 20 → 60 x 40 pixels."
    assert save(page)[1] == "scan_restored_t0.5.png"


def test_a_large_photo_is_cropped(page, restorer):
    choose(page, photo(150, 200))
    status_has(page, "Choose what to restore of it.")
    assert "115 x 86 of 200 x 150" in page.inner_text("#cropSize")
    page.fill("#share", "50")
    assert "57 x 43" in page.inner_text("#cropSize")
    page.focus("#cropBox")
    for _ in range(50):
        page.keyboard.press("ArrowLeft")
    page.mouse.move(*point(page, 0.1, 0.5, "#overview"))
    page.mouse.down()
    page.mouse.move(*point(page, 0.1, -1, "#overview"))
    page.mouse.up()
    page.click("#useCrop")
    wait_until_restored(page)
    status_has(page, "57 x 43 → 114 x 86 pixels.")
    move(page, 0)
    rng = np.random.default_rng(150 * 200)
    image = rng.integers(0, 256, (150, 200, 3), dtype=np.uint8)[:43, :57]
    assert np.array_equal(pixels(page)[..., :3], restored_at(restorer, image, 0))
    page.click("#recrop")
    page.wait_for_selector("#cropper:visible")
    page.click("#shrink")
    status_has(page, "115 x 86 → 230 x 172 pixels.")
    saved, _ = save(page)
    assert saved.shape == (172, 230, 3)


def test_what_is_no_photo_is_said_and_the_former_one_stays(page):
    upload(page, noise(10, 20))
    before = pixels(page)
    choose(page, b"no picture")
    page.wait_for_selector("#status.failed:has-text('not an image of a known format')")
    assert page.is_visible("#after") and np.array_equal(pixels(page), before)
    assert save(page)[1] == "photo_restored_t0.5.png"
    choose(page, bytes(250_000), "large.png")
    page.wait_for_selector("#status.failed:has-text('large.png is larger than the 0.2 MB')")


def test_the_photo_is_shown_while_it_is_restored(page, restorer):
    restorer.open.clear()
    try:
        choose(page, photo(20, 30))
        status_has(page, "Restoring")
        assert page.is_visible("#after") and page.is_visible("#progress")
        assert pixels(page)[..., 3].min() == 255
        assert page.inner_text("#afterTag") == "photo"
    finally:
        restorer.open.set()
    wait_until_restored(page)
    assert page.inner_text("#afterTag") == "restored"
    assert not page.is_visible("#progress")


def test_another_photo_replaces_one_that_is_still_restored(page, restorer):
    restorer.open.clear()
    try:
        choose(page, photo(20, 30))
        status_has(page, "Restoring")
        choose(page, photo(22, 34))
        page.wait_for_function("() => page.photo?.width === 34")
    finally:
        restorer.open.set()
    status_has(page, "34 x 22 → 68 x 44 pixels.")
    assert pixels(page).shape == (44, 68, 4)


def test_what_is_no_photo_leaves_one_that_is_still_restored(page, restorer):
    restorer.open.clear()
    try:
        choose(page, photo(20, 30))
        status_has(page, "Restoring")
        choose(page, b"no picture")
        page.wait_for_selector("#status.failed:has-text('not an image of a known format')")
    finally:
        restorer.open.set()
    wait_until_restored(page)
    page.wait_for_selector("#status.failed:has-text('not an image of a known format')")
    assert pixels(page).shape == (40, 60, 4)
    assert save(page)[1] == "photo_restored_t0.5.png"


def test_a_crowd_is_told_to_try_again(page, restorer, address):
    from distillkit_demo.middleware import MAX_CALLS

    restorer.open.clear()
    with ThreadPoolExecutor(MAX_CALLS) as pool:
        try:
            waiting = [
                pool.submit(DemoClient(address).save, photo(6, 7 + i), 7 + i, 6)
                for i in range(MAX_CALLS)
            ]
            client = DemoClient(address)
            while client.request("POST", "/photo", content=photo()).is_success:
                pass
            choose(page, photo(11, 13))
            page.wait_for_selector("#status.failed:has-text('try again in a minute')")
        finally:
            restorer.open.set()
        assert not any(outcome.result().failed for outcome in waiting)
    choose(page, photo(11, 13))
    status_has(page, "13 x 11 → 26 x 22 pixels.")


def test_a_side_longer_than_a_canvas_is_shown_shrunk_and_saved_in_full(page):
    choose(page, encode(noise(1, 9_000)))
    status_has(page, "9000 x 1 → 18000 x 2 pixels. Shown at 16384 x 1;")
    assert pixels(page)[..., 3].min() == 255
    assert save(page)[0].shape == (2, 18_000, 3)


def test_an_example_is_restored(page):
    page.click("#examples button:has-text('coffee')")
    page.click("#shrink")
    wait_until_restored(page)
    assert save(page)[1] == "coffee_restored_t0.5.png"


def test_transparent_pixels_stay_so(page):
    array = np.asarray(noise(20, 30, 4)).copy()
    array[..., 3] = 255
    array[:, :10, 3] = 0
    upload(page, Image.fromarray(array))
    shown = pixels(page)
    assert shown[:, :14, 3].max() == 0 and shown[:, 26:, 3].min() == 255
    assert save(page)[0].shape == (40, 60, 4)


def test_a_phone_shows_the_picture_above_the_fold_and_takes_fingers(phone):
    upload(phone, noise(90, 90))
    box = phone.locator("#after").bounding_box()
    assert box["y"] + box["height"] < 844 and box["width"] > 340
    assert phone.evaluate("document.documentElement.scrollWidth") == 390
    phone.touchscreen.tap(*point(phone, 0.75, 0.5))
    assert float(phone.input_value("#divider")) == pytest.approx(75, abs=2)
    move(phone, 0)
    before = pixels(phone)
    phone.tap(".tool:has-text('Paint faithful')")
    phone.touchscreen.tap(*point(phone, 0.5, 0.5))
    assert not np.array_equal(pixels(phone)[90, 90], before[90, 90])


def test_everything_has_a_name_and_the_focus_goes_from_top_to_bottom(page):
    assert page.evaluate(NAMELESS) == []
    upload(page, noise(40, 60))
    order = []
    page.focus("#file")
    for _ in range(7):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.value"))
    controls = ["tradeoff", "compare", "find", "unscaled", "compared", "download"]
    assert order == ["divider", *controls]
    pick(page, "faithful")
    page.focus("#file")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "cursor"
    assert page.get_attribute("#status", "role") == "status"
