"""The pages of the site: each is listed once, every link leads somewhere, the site builds."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from build_site import llms_txt, main
from pages import INDEXES, ROOT, anchors, broken_links, find_pages, for_site, links, listed

PAGES = find_pages()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    assert broken_links(page) == []


def test_a_broken_link_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("pages.ROOT", tmp_path)
    (tmp_path / "other.md").write_text("# A `b`, c\n")
    text = "[a](other.md#a-b-c) `[b](none.md)`\n\n[c](none.md), [d](other.md#none)\n"
    (tmp_path / "page.md").write_text(text)
    assert broken_links("page.md") == [
        "page.md:3: none.md - no such file",
        "page.md:3: other.md#none - no such heading",
    ]


def test_every_page_is_listed_once():
    pages = [entry.page for index in INDEXES for entry in listed(index)]
    assert len(pages) == len(set(pages))
    assert {*pages, "docs/index.md"} == set(PAGES)


def test_every_listed_page_has_a_line_about_it():
    for index in INDEXES:
        assert [entry.title for entry in listed(index) if not entry.about] == []


def test_anchors_are_those_of_the_headings():
    text = "# One: `two` (x)\n```\n# code\n```\n## [Three](a.md)\n## [Three](a.md)\n"
    assert anchors(text) == ["one-two-x", "three", "three-1"]


def test_links_to_sources_become_text_on_the_site():
    page = for_site("docs/how-to/plugins.md", PAGES)
    targets = [target for _, target in links(page)]
    assert "data.md" in targets
    assert [target for target in targets if "distillkit/plugins" in target] == []
    assert "\n`distillkit_mine/__init__.py`:\n" in page


def test_the_site_builds_without_a_warning(tmp_path, capfd):
    if any(find_spec(module) is None for module in ("sphinx", "myst_parser", "furo")):
        pytest.skip("NOT RUN: the site was not built; `make setup` installs what it needs")
    assert main(tmp_path) == 0, capfd.readouterr().err
    html = tmp_path / "html"
    for place in PAGES.values():
        page = (html / place).with_suffix(".html").read_text(encoding="utf-8")
        loaded = [word for word in page.split() if word.startswith(('src="http', "url(http"))]
        assert loaded == []
        assert 'rel="stylesheet" href="http' not in page
    for _, target in links((html / "llms.txt").read_text(encoding="utf-8")):
        assert (html / target).is_file()


def test_llms_txt_lists_every_page():
    text = llms_txt(PAGES)
    assert text.startswith("# distillkit\n\n> ")
    expected = [place for page, place in PAGES.items() if page not in INDEXES]
    assert sorted(target for _, target in links(text)) == sorted(expected)


def test_the_makefile_builds_it():
    assert "docs/build_site.py" in (ROOT / "Makefile").read_text(encoding="utf-8")
