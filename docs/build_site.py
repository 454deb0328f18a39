"""Build the site: ``python docs/build_site.py [OUT]``, by default into ``build/docs``.

It needs Sphinx, MyST and furo (``pip install --group docs``) and no network. Every warning
is an error. ``OUT/html`` is the site, ``OUT/source`` the pages as Sphinx reads them. The site has
them as well: ``llms.txt``, for language models, leads to them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from pages import INDEXES, ROOT, find_pages, for_site, listed, read

PICTURES = ("*.png", "*.svg", "*.jpg")


def main(out: Path) -> int:
    """Build the site into a folder; return Sphinx's exit code."""
    from sphinx.cmd.build import build_main

    source = out / "source"
    html = out / "html"
    shutil.rmtree(source, ignore_errors=True)
    write_source(source)
    options = ["-q", "-W", "--keep-going", "-E", "-j", "auto", "-c", str(ROOT / "docs")]
    code = build_main([*options, "-b", "html", str(source), str(html)])
    if code == 0:
        shutil.copytree(source, html, dirs_exist_ok=True)
        (html / "llms.txt").write_text(llms_txt(find_pages()), encoding="utf-8")
        print(f"{html / 'index.html'}")
    return code


def write_source(source: Path) -> None:
    """Write every page as the site has it, and the pictures beside them."""
    pages = find_pages()
    for page, place in pages.items():
        text = for_site(page, pages)
        if page in INDEXES:
            text += navigation(page, pages)
        file = source / place
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    for pattern in PICTURES:
        for picture in (ROOT / "docs").rglob(pattern):
            copy = source / picture.relative_to(ROOT / "docs")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(picture, copy)


def navigation(index: str, pages: dict[str, str]) -> str:
    """Write the menu of an index: the pages that it lists."""
    entries = [f"{entry.title} </{pages[entry.page]}>" for entry in listed(index)]
    return "\n".join(["", "```{toctree}", ":hidden:", "", *entries, "```", ""])


def llms_txt(pages: dict[str, str]) -> str:
    """Write the list of all pages for language models, in the format of llmstxt.org."""
    home = read(INDEXES[0]).splitlines()
    text = f"{home[0]}\n\n> {home[2]}\n"
    # The first index lists the others, and pages that stand for themselves.
    for chapter in listed(INDEXES[0]):
        inner = listed(chapter.page) if chapter.page in INDEXES else [chapter]
        lines = [f"- [{entry.title}]({pages[entry.page]}): {entry.about}" for entry in inner]
        text += f"\n## {chapter.title}\n\n" + "\n".join(lines) + "\n"
    return text


if __name__ == "__main__":
    sys.exit(main(Path(*sys.argv[1:2] or [ROOT / "build" / "docs"])))
