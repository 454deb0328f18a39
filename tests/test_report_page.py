"""The report in a real browser: wide and narrow, light and dark."""

import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from distillkit.data.evaluation_pairs import EvaluationPair
from distillkit.evaluation.gallery import Gallery
from distillkit.evaluation.protocol import EvaluationSettings, Method, evaluate
from distillkit.files.images import to_float
from distillkit.metrics.distortion import psnr, psnr_y, ssim, ssim_y
from distillkit.metrics.learned import stlpips
from distillkit.report.files import write_evaluation
from distillkit.report.page import EvaluatedSet, write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")

LAYOUTS = [(width, scheme) for width in (1280, 768, 375) for scheme in ("light", "dark")]
CUT_OFF = """
[...document.querySelectorAll("table")]
    .filter((table) => table.offsetParent && table.getBoundingClientRect().right > innerWidth)
    .map((table) => table.innerText.slice(0, 80))
"""
COLUMN = "[...document.querySelectorAll('#values tbody td:last-child')].map((c) => +c.textContent)"
NAMES = "[...document.querySelectorAll('#values tbody td:first-child')].map((c) => c.innerText)"


def noisy(name, tradeoff, noise):
    """Make a method that adds noise, more of it to some images."""

    def restore(item, inputs, generator):
        strength = noise * (1 + int(item[-2:]) % 5)
        return inputs.lq + strength * torch.randn(inputs.lq.shape, generator=generator)

    return Method(name, tradeoff, 1, restore, parameters=10**6)


def write_page(folder, methods, metrics, **settings):
    evaluated = evaluate_toys(folder, "toys", methods, metrics, **settings)
    return write_report(folder, [evaluated], manifest={"packages": {"a": "1" * 90}})


def evaluate_toys(folder, dataset, methods, metrics, **settings):
    rng = np.random.default_rng(0)
    items = []
    for number in range(12):
        small = rng.uniform(40, 215, (6, 8, 3)).astype(np.uint8)
        large = np.array(Image.fromarray(small).resize((96, 72), Image.Resampling.BICUBIC))
        gt = to_float(large)[None]
        items.append(EvaluationPair(f"photo{number:02}", gt, gt))
    gallery = Gallery()
    shown = EvaluationSettings(dataset, **settings)
    results = evaluate(methods, items, metrics, shown, observe=gallery)
    write_evaluation(results, gallery, folder / dataset)
    return EvaluatedSet(results, gallery, folder / dataset)


@pytest.fixture(scope="module")
def run_page(tmp_path_factory):
    """A report of a student with a tradeoff."""
    methods = [
        noisy("fidelity", None, 0.02),
        noisy("realness", None, 0.05),
        noisy("student", 0.0, 0.04),
        noisy("student", 0.5, 0.03),
        noisy("student", 1.0, 0.01),
    ]
    metrics = [psnr(), psnr_y(), ssim(), ssim_y(), stlpips("alex")]
    combine = {"linear": ("fidelity", "realness")}
    folder = tmp_path_factory.mktemp("pages") / "run"
    return write_page(folder, methods, metrics, combine=combine, reference="fidelity")


@pytest.fixture(scope="module")
def folders_page(tmp_path_factory):
    """A report without any tradeoff and without a perceptual metric."""
    methods = [noisy("ours", None, 0.02), noisy("theirs", None, 0.05)]
    return write_page(tmp_path_factory.mktemp("pages") / "folders", methods, [psnr()])


@pytest.fixture(scope="module")
def sets_page(tmp_path_factory):
    """A report of two evaluation sets with different results."""
    student = [noisy("student", 0.0, 0.04), noisy("student", 1.0, 0.01)]
    metrics = [psnr(), stlpips("alex")]
    folder = tmp_path_factory.mktemp("pages") / "sets"
    evaluated = [
        evaluate_toys(folder, "RealSR", student, metrics),
        evaluate_toys(folder, "DIV2K-Val", [*student, noisy("theirs", None, 0.09)], metrics),
    ]
    return write_report(folder, evaluated, manifest={})


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser):
    """Open a page; errors of its script fail the test."""
    pages = []

    def call(path, width=1280, scheme="light"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        page.failed = []
        page.on("pageerror", lambda error: page.failed.append(str(error)))
        page.goto(path.as_uri())
        pages.append(page)
        return page

    yield call
    for page in pages:
        assert page.failed == []
        page.close()


@pytest.mark.parametrize(("width", "scheme"), LAYOUTS)
def test_nothing_is_cut_off(visit, run_page, width, scheme):
    page = visit(run_page, width, scheme)
    for details in page.query_selector_all("details:not([open]) summary"):
        details.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CUT_OFF) == []
    stacked = page.evaluate("document.querySelectorAll('table.stacked').length")
    assert (stacked > 0) == (width < 1280)
    heads = page.locator("td[data-head^='stlpips-alex']").first
    assert heads.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_figures_follow_the_color_scheme(visit, run_page, scheme):
    page = visit(run_page, scheme=scheme)
    is_dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(15, 17, 21)"
    assert is_dark == (scheme == "dark")
    # Tradeoff, radar, bubbles; and the comparison, whose photos stay as they are.
    kinds = page.evaluate("[...document.querySelectorAll('figure img')].map((i) => i.className)")
    assert kinds == ["chart", "chart", "chart", "photos"]
    for chart in page.locator("img.chart").all():
        ground, darkest, lightest = shades(chart)
        if is_dark:
            # The page's own color, and text as bright as the page's.
            assert np.abs(ground - [0x16, 0x19, 0x1F]).max() <= 1
            assert lightest.min() >= 0xD6
        else:
            assert ground.tolist() == [255, 255, 255]
            assert darkest.max() <= 0x2D


def shades(image):
    """Look at a picture as it is shown: its corner, its darkest and its lightest pixel."""
    pixels = np.asarray(Image.open(io.BytesIO(image.screenshot())).convert("RGB")).astype(int)
    flat = pixels.reshape(-1, 3)
    sums = flat.sum(1)
    return pixels[1, 1], flat[sums.argmin()], flat[sums.argmax()]


def test_without_a_tradeoff_there_is_no_slider_for_it(visit, run_page, folders_page):
    page = visit(folders_page)
    assert not page.locator("#left-tradeoff").is_visible()
    assert not page.locator("#right-tradeoff").is_visible()
    assert page.locator("#tag-right").inner_text() == "ours"
    page = visit(run_page)
    assert page.locator("#right-tradeoff").is_visible()
    assert not page.locator("#left-tradeoff").is_visible()
    page.locator("#right-tradeoff").fill("2")
    assert page.locator("#tag-right").inner_text() == "student 1"
    page.locator("#left").select_option(label="student")
    page.locator("#left-tradeoff").fill("0")
    assert page.locator("#tag-left").inner_text() == "student 0"
    page.locator("#right").select_option(label="ground truth")
    assert not page.locator("#right-tradeoff").is_visible()


def test_pictures_are_shown_whole_and_zoomed(visit, run_page):
    page = visit(run_page, 375)
    box = page.locator("#stage").bounding_box()
    assert box["x"] + box["width"] <= 375
    assert box["width"] / box["height"] == pytest.approx(96 / 72, abs=0.01)
    assert page.locator("#zoom-value").inner_text() == "300 %"
    page.locator("#zoom").fill("1")
    assert page.locator("#zoom-value").inner_text() == "400 %"
    before = page.locator("#image-left").get_attribute("style")
    page.locator("#stage").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#image-left").get_attribute("style") != before
    left = page.locator("#image-left").get_attribute("style")
    assert left == page.locator("#image-right").get_attribute("style")


def test_the_images_are_sorted_worst_first_by_any_method(visit, run_page):
    page = visit(run_page)
    assert page.locator("#metric option:checked").inner_text() == "stlpips-alex"
    distances = page.evaluate(COLUMN)
    assert distances == sorted(distances, reverse=True)
    assert len(distances) == 10
    page.get_by_role("button", name="show all 12 images").click()
    assert len(page.evaluate(COLUMN)) == 12
    page.locator("#metric").select_option(label="psnr")
    psnrs = page.evaluate(COLUMN)
    assert psnrs == sorted(psnrs)
    page.locator("#values th").last.get_by_role("button").click()
    assert page.evaluate(COLUMN) == psnrs[::-1]
    page.locator("#values th").first.get_by_role("button").click()
    assert page.evaluate(NAMES) == [f"photo{number:02}" for number in range(11, -1, -1)]
    linked = page.locator("#values .link").last
    name = linked.inner_text()
    linked.click()
    assert page.locator("#photo option:checked").inner_text() == name


@pytest.mark.parametrize("width", [390, 1280])
def test_each_evaluation_set_has_its_own_place_on_the_page(visit, sets_page, width):
    page = visit(sets_page, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CUT_OFF) == []
    assert page.locator("nav a").all_inner_texts() == ["RealSR", "DIV2K-Val"]
    assert page.locator("h2.set").all_inner_texts() == ["RealSR", "DIV2K-Val"]
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(set(ids)) == len(ids)
    first = page.locator("article").first
    second = page.locator("article").last
    assert "theirs" not in first.inner_text()
    assert "theirs" in second.inner_text()
    assert first.get_by_text("no verdict: 12 photographs").count() > 0
    assert second.get_by_text("no verdict: 12 photographs").count() > 0
    # The controls of one set leave the other as it is.
    page.locator("#right-tradeoff-2").fill("1")
    page.locator("#metric-2").select_option(label="psnr")
    assert page.locator("#tag-right-2").inner_text() == "student 1"
    assert page.locator("#metric option:checked").inner_text() == "stlpips-alex"
    page.locator("#right-tradeoff").fill("0")
    assert page.locator("#tag-right").inner_text() == "student 0"
    assert page.locator("#tag-right-2").inner_text() == "student 1"
