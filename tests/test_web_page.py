"""The page of ``export --web`` in a real browser, opened from the disk: it restores as we do."""

import gzip
import logging
import shutil

import numpy as np
import pytest
from PIL import Image
from restoration_page import (
    CHROMIUM,
    SOFTWARE_WEBGPU,
    choose,
    encode,
    move,
    noise,
    pick,
    point,
    save,
    upload,
    wait_until_ready,
    wait_until_restored,
    watch,
)
from test_pictures import P3
from toy_fixtures import install_plugins

from distillkit import DistillkitError, Restorer
from distillkit.export import web

REASON = "the extra onnx, the dependency group test, npm and a chromium test exported pages"
pytest.importorskip("onnxscript", reason=REASON)
sync_api = pytest.importorskip("playwright.sync_api", reason=REASON)
TWO_GRAY_LEVELS = 2
OVERRIDES = ["data.eval=[]", "stage2.learning_rate=0.1"]


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    """The npm package, fetched once."""
    if CHROMIUM is None or shutil.which("npm") is None:
        pytest.skip(REASON)
    try:
        return web._fetch_package(tmp_path_factory.mktemp("npm"))
    except DistillkitError as error:
        pytest.skip(f"onnxruntime-web cannot be fetched here: {error}")


@pytest.fixture
def run(toys, finished_run):
    return finished_run(*OVERRIDES)


@pytest.fixture(scope="module")
def exported_page(trained, package, tmp_path_factory):
    """The page of the run, exported once."""
    folder = tmp_path_factory.mktemp("exported") / "page"
    with pytest.MonkeyPatch.context() as patch:
        # Torch writes a trace of every operator to whoever listens to all logs, as pytest does.
        patch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
        install_plugins(patch, toy="toy_plugin")
        example = folder.with_name("garden.tif")
        noise(21, 34).save(example)
        web.export_web(trained(*OVERRIDES), folder, package, example)
    return folder


@pytest.fixture
def open_page(exported_page, tmp_path):
    """``open_page(query, arguments)``: the exported page in a Chromium with these arguments.

    ``asked`` lists its requests, ``failed`` its errors.
    """
    shutil.copytree(exported_page, tmp_path / "page")
    address = (tmp_path / "page" / "index.html").as_uri()
    with sync_api.sync_playwright() as playwright:
        browsers = []

        def open_in_browser(query="", arguments=()):
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", *arguments]
            )
            browsers.append(browser)
            page = browser.new_page()
            watch(page)
            page.goto(address + query)
            return page

        yield open_in_browser
        for browser in browsers:
            browser.close()


@pytest.fixture
def page(open_page):
    """The exported page, ready."""
    page = open_page()
    wait_until_ready(page)
    return page


@pytest.fixture
def open_on_graphics_card(open_page):
    """The same on a graphics card, which software may imitate, where this Chromium offers one."""

    def open_ready(query):
        page = open_page(query, SOFTWARE_WEBGPU)
        if not page.evaluate("async () => Boolean(await navigator.gpu?.requestAdapter())"):
            pytest.skip("this Chromium has no WebGPU, not even in software")
        wait_until_ready(page)
        return page

    return open_ready


def test_a_photo_is_restored_as_the_restorer_does_without_a_request(page, run, tmp_path):
    image = noise(21, 34)
    upload(page, image)
    restorer = Restorer.from_pretrained(run, "cpu")
    expected = {}
    for tradeoff in (0, 0.3, 1):
        move(page, tradeoff)
        restored, name = save(page)
        assert name == f"photo_restored_t{tradeoff}.png"
        expected[tradeoff] = np.asarray(restorer(image, tradeoff)).astype(int)
        assert np.abs(restored[..., :3] - expected[tradeoff]).max() <= TWO_GRAY_LEVELS
    assert np.abs(expected[0] - expected[1]).max() > 10 * TWO_GRAY_LEVELS
    assert (
        "on the processor (WebAssembly): this browser offers no graphics card"
        in page.inner_text("footer")
    )
    folder = (tmp_path / "page").as_uri()
    assert [url for url in page.asked if not url.startswith((folder, "blob:", "data:"))] == []
    assert page.failed == []


def test_a_photo_of_several_tiles_is_restored_as_the_restorer_does(page, run):
    image = noise(500, 410)
    restorer = Restorer.from_pretrained(run, "cpu")
    assert image.width * image.height > restorer.tile**2
    upload(page, image)
    move(page, 1)
    restored, _ = save(page)
    expected = np.asarray(restorer(image, 1)).astype(int)
    assert np.abs(restored[..., :3] - expected).max() <= TWO_GRAY_LEVELS


def test_a_graphics_card_restores_as_the_restorer_does(open_on_graphics_card, run):
    page = open_on_graphics_card("?run=webgpu")
    assert "on the graphics card (WebGPU), as the address says." in page.inner_text("footer")
    assert not any(url.endswith("wasm.js") for url in page.asked)
    restorer = Restorer.from_pretrained(run, "cpu")
    # Shapes change between photos, and back: buffers of one must not serve another.
    for image in (noise(21, 34), noise(64, 20), noise(21, 34)):
        upload(page, image)
        for tradeoff in (0, 0.3, 1):
            move(page, tradeoff)
            restored, _ = save(page)
            expected = np.asarray(restorer(image, tradeoff)).astype(int)
            assert np.abs(restored[..., :3] - expected).max() <= TWO_GRAY_LEVELS
    assert page.failed == []


def test_a_graphics_card_that_errs_or_is_imitated_is_not_used(open_on_graphics_card, tmp_path, run):
    page = open_on_graphics_card("")
    assert "(WebAssembly): this browser offers no graphics card" in page.inner_text("footer")
    assert not any(url.endswith("webgpu.js") for url in page.asked)
    script = tmp_path / "page" / "backend.js"
    text = script.read_text().replace("!card.info.isFallbackAdapter", "true")
    # A driver's error is put in where the page compares images, which has to notice it.
    right = "const [expected, image] = images;"
    assert right in text
    for wrong in ("0.01 + value", "NaN"):
        changed = f"const [expected, image] = [images[0], images[1].map((value) => {wrong})];"
        script.write_text(text.replace(right, changed))
        page = open_on_graphics_card("")
        footer = page.inner_text("footer")
        assert "(WebAssembly): the graphics card is not used: it gives another image" in footer
    image = noise(21, 34)
    upload(page, image)
    move(page, 0)
    restored, _ = save(page)
    expected = np.asarray(Restorer.from_pretrained(run, "cpu")(image, 0)).astype(int)
    assert np.abs(restored[..., :3] - expected).max() <= TWO_GRAY_LEVELS


def test_an_address_that_names_what_is_not_there_is_refused(open_page):
    reasons = {
        "?run=gpu": "?run=gpu - name webgpu or wasm",
        "?run=webgpu": "this browser offers no WebGPU here",
    }
    for query, reason in reasons.items():
        page = open_page(query)
        page.wait_for_selector("#status.failed")
        assert reason in page.inner_text("#status")


def test_painted_pixels_change_and_others_do_not(page, run):
    image = noise(40, 60)
    upload(page, image)
    move(page, 0)
    before, _ = save(page)
    pick(page, "faithful")
    page.mouse.click(*point(page, 0.5, 0.5))
    painted, name = save(page)
    assert name == "photo_restored_painted.png"
    faithful = np.asarray(Restorer.from_pretrained(run, "cpu")(image, 1)).astype(int)
    assert np.abs(painted[38:42, 58:62, :3] - faithful[38:42, 58:62]).max() <= TWO_GRAY_LEVELS
    assert np.array_equal(painted[:20], before[:20])
    page.click("#undo")
    undone, _ = save(page)
    assert np.array_equal(undone, before)


def test_photos_that_follow_each_other_fast_wait_for_one_student(page, run):
    page.evaluate("""() => {
        const quick = unpack;
        window.unpack = async (text) => {
            await new Promise((resolve) => setTimeout(resolve, 500));
            return quick(text);
        };
    }""")
    for size in (400, 401, 402):
        choose(page, encode(noise(size, 400)), f"{size}.png")
        page.wait_for_function(f"() => page.photo?.height === {size}")
        page.wait_for_selector("#status:has-text('Restoring')")
    image = noise(21, 34)
    upload(page, image)
    restorer = Restorer.from_pretrained(run, "cpu")
    for tradeoff in (0, 0.5, 1):
        move(page, tradeoff)
        restored, _ = save(page)
        expected = np.asarray(restorer(image, tradeoff)).astype(int)
        assert np.abs(restored[..., :3] - expected).max() <= TWO_GRAY_LEVELS
    assert page.failed == []


def test_a_result_longer_than_a_canvas_is_shrunk(page):
    choose(page, encode(noise(1, 20_000)))
    page.click("#shrink")
    wait_until_restored(page)
    restored, _ = save(page)
    assert restored.shape[:2] == (2, web.MAX_SHOWN_SIDE)
    assert restored[..., :3].std() > 10


def test_the_saved_photo_says_that_its_colors_are_srgb(page):
    upload(page, noise(8, 8))
    with page.expect_download() as download:
        page.click("#download")
    with Image.open(download.value.path()) as picture:
        picture.load()
        assert picture.info["srgb"] == 0


def test_the_example_is_restored_as_the_restorer_does(page, run):
    page.click("#examples button:has-text('garden')")
    wait_until_restored(page)
    restored, name = save(page)
    assert name == "garden_restored_t0.5.png"
    expected = np.asarray(Restorer.from_pretrained(run, "cpu")(noise(21, 34), 0.5)).astype(int)
    assert np.abs(restored[..., :3] - expected).max() <= TWO_GRAY_LEVELS


def test_opacity_is_saved(page):
    array = np.asarray(noise(20, 30, 4)).copy()
    array[..., 3] = 255
    array[:, :10, 3] = 0
    upload(page, Image.fromarray(array))
    restored, _ = save(page)
    assert restored[:, :14, 3].max() == 0
    assert restored[:, 26:, 3].min() == 255


def test_colors_are_converted_from_the_embedded_profile(page, run):
    image = noise(3, 4).resize((34, 21), Image.Resampling.BICUBIC)
    restorer = Restorer.from_pretrained(run, "cpu")
    plain = np.asarray(restorer(image, 1)).astype(int)
    image.info["icc_profile"] = P3
    expected = np.asarray(restorer(image, 1)).astype(int)
    upload(page, image)
    move(page, 1)
    restored, _ = save(page)
    # Two libraries convert, each with its own rounding.
    assert np.abs(restored[..., :3] - expected).max() <= 2 * TWO_GRAY_LEVELS
    assert np.abs(plain - expected).max() > 10 * TWO_GRAY_LEVELS


def test_another_package_is_refused(run, tmp_path):
    folder = tmp_path / "package"
    with pytest.raises(DistillkitError, match="npm pack onnxruntime-web@"):
        web.export_web(run, tmp_path / "page", folder)
    half_downloaded = tmp_path / "package.tgz"
    content = gzip.compress(noise(64, 64).tobytes())
    half_downloaded.write_bytes(content[: len(content) // 2])
    with pytest.raises(DistillkitError, match="package.tgz - not the npm package"):
        web.export_web(run, tmp_path / "page", half_downloaded)
    (folder / "dist").mkdir(parents=True)
    for name in web.RUNTIME_FILES:
        (folder / "dist" / name).write_text("another version")
    with pytest.raises(DistillkitError, match="is not that of onnxruntime-web@"):
        web.export_web(run, tmp_path / "page", folder)
    assert not (tmp_path / "page").exists()


def test_the_folder_is_a_static_space(exported_page):
    readme = (exported_page / "README.md").read_text()
    assert readme.startswith('---\ntitle: "toy"\nsdk: static\napp_file: index.html\n')
