"""The page of ``export --web`` in a real browser, opened from the disk: it restores as we do."""

import gzip
import shutil

import numpy as np
import pytest
from PIL import Image
from restoration_page import (
    CHROMIUM,
    move,
    noise,
    pick,
    point,
    save,
    upload,
    wait_until_ready,
    watch,
)
from test_pictures import P3

from distillkit import DistillkitError, Restorer, load_recipe, run_recipe
from distillkit.export import web

REASON = "the extra onnx, the dependency group test, npm and a chromium test exported pages"
pytest.importorskip("onnxscript", reason=REASON)
sync_api = pytest.importorskip("playwright.sync_api", reason=REASON)
TWO_GRAY_LEVELS = 2


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
def run(recipe, tmp_path):
    overrides = ["data.eval=[]", "stage2.learning_rate=0.1"]
    run_recipe(load_recipe(recipe, overrides), tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def page(run, package, tmp_path):
    """The exported page; ``asked`` lists its requests, ``failed`` its errors."""
    web.export_web(run, tmp_path / "page", package)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        watch(page)
        page.goto((tmp_path / "page" / "index.html").as_uri())
        wait_until_ready(page)
        yield page
        browser.close()


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


def test_the_folder_is_a_static_space(run, package, tmp_path):
    web.export_web(run, tmp_path / "page", package)
    readme = (tmp_path / "page" / "README.md").read_text()
    assert readme.startswith('---\ntitle: "toy"\nsdk: static\napp_file: index.html\n')
