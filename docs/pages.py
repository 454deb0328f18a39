"""The pages of the site: which files they are, where their links lead, what the indexes list.

A notebook is a page as well, with the outputs that it was saved with. All links are those of the
repository, so that pages can be read there as well. On the site, links to other pages are kept;
links to source files, which it does not have, become their text.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
INDEXES = (
    "docs/index.md",
    "docs/tutorials/index.md",
    "docs/how-to/index.md",
    "docs/reference/index.md",
    "docs/explanation/index.md",
)
"""The pages that list others; all others are listed by one of these."""

FENCE = re.compile(r"^( *)(```+|~~~+)")
CODE_SPAN = re.compile(r"(`+)(?:.*?)\1")
LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^()\s]+)\)")
LISTED = re.compile(r"^- \[(?P<title>[^\]]+)\]\((?P<target>[^)]+)\)(?:: (?P<about>.*))?$", re.M)
HEADING = re.compile(r"^#{1,6} +(.*?) *$")


class Listed(NamedTuple):
    """A page in an index."""

    title: str
    page: str
    about: str


def find_pages() -> dict[str, str]:
    """Map files of the repository that are pages to their place on the site."""
    pages = {
        path.relative_to(ROOT).as_posix(): path.relative_to(ROOT / "docs").as_posix()
        for path in sorted((ROOT / "docs").rglob("*.md"))
    }
    for path in sorted((ROOT / "docs").rglob("*.ipynb")):
        place = path.relative_to(ROOT / "docs").with_suffix(".md")
        pages[path.relative_to(ROOT).as_posix()] = place.as_posix()
    for path in sorted(ROOT.glob("plugins/*/README.md")):
        pages[path.relative_to(ROOT).as_posix()] = f"plugins/{path.parent.name}.md"
    pages["integrations/comfyui/README.md"] = "plugins/comfyui.md"
    pages["benchmarks/README.md"] = "benchmarks.md"
    for name in ("CHANGELOG.md", "CONTRIBUTING.md"):
        pages[name] = name.lower()
    return pages


def resolve(page: str, target: str) -> str:
    """Return the file that a link means, as a path from the root; a folder means its README."""
    path = target.partition("#")[0]
    if not path:
        return page
    file = os.path.normpath(Path(page).parent / path)
    if (ROOT / file / "README.md").is_file():
        return f"{file}/README.md"
    return Path(file).as_posix()


def is_outside(target: str) -> bool:
    """Tell whether a link leaves the repository."""
    return "://" in target or target.startswith(("mailto:", "data:"))


def text_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield number and text of the lines of a page that are in no block of code."""
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        found = FENCE.match(line)
        if fence:
            if found and found[2].startswith(fence) and line.strip() == found[2]:
                fence = ""
        elif found:
            fence = found[2]
        elif not line.startswith("    "):
            yield number, line


def links(text: str) -> Iterator[tuple[int, str]]:
    """Yield line and target of the links of a page."""
    for number, line in text_lines(text):
        for found in LINK.finditer(_without_code(line)):
            yield number, found["target"]
            # a picture that is a link, or the other way round
            for inner in LINK.finditer(found["text"]):
                yield number, inner["target"]


def _without_code(line: str) -> str:
    """Blank out code, whose length stays, so that what looks like a link in it is none."""
    return CODE_SPAN.sub(lambda found: "`" + "x" * (len(found[0]) - 2) + "`", line)


def anchors(text: str) -> list[str]:
    """List the anchors of a page's headings, by GitHub's rule."""
    found: list[str] = []
    for _, line in text_lines(text):
        heading = HEADING.match(line)
        if heading is None:
            continue
        plain = LINK.sub(lambda link: link["text"], heading[1])
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = found.count(slug)
        found.append(slug if number == 0 else f"{slug}-{number}")
    return found


def broken_links(page: str) -> list[str]:
    """Say which links of a page lead nowhere."""
    text = read(page)
    wrong = []
    for line, target in links(text):
        if is_outside(target):
            continue
        file = resolve(page, target)
        anchor = target.partition("#")[2]
        if not (ROOT / file).exists():
            wrong.append(f"{page}:{line}: {target} - no such file")
        elif anchor and file.endswith(".md") and anchor not in anchors(read(file)):
            wrong.append(f"{page}:{line}: {target} - no such heading")
    return wrong


def read(page: str) -> str:
    """Read a page as Markdown."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if page.endswith(".ipynb"):
        return notebook_text(json.loads(text))
    return text


def notebook_text(notebook: dict[str, Any]) -> str:
    """Write a notebook as Markdown: programs and outputs in blocks of code, pictures in place."""
    blocks = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            blocks.append(source)
            continue
        blocks.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            shown = output.get("data", {})
            if "image/png" in shown:
                # Without line ends, which a notebook may have in it.
                png = "".join(shown["image/png"]).replace("\n", "")
                blocks.append(f"![what the program shows](data:image/png;base64,{png})")
            else:
                text = "".join(output.get("text", shown.get("text/plain", "")))
                blocks.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(blocks) + "\n"


def for_site(page: str, pages: dict[str, str]) -> str:
    """Return a page as the site has it: links lead to pages, or become their text."""
    here = Path(pages[page]).parent

    def relink(found: re.Match[str]) -> str:
        target = found["target"]
        if is_outside(target) or target.startswith("#"):
            return found[0]
        file = resolve(page, target)
        place = pages.get(file)
        if found["image"]:
            place = file.removeprefix("docs/")
        if place is None:
            return found["text"]
        anchor = target.partition("#")[1] + target.partition("#")[2]
        link = Path(os.path.relpath(place, here)).as_posix()
        return f"{found['image']}[{found['text']}]({link}{anchor})"

    return map_text_lines(read(page), lambda line: LINK.sub(relink, line))


def map_text_lines(text: str, change: Callable[[str], str]) -> str:
    """Change the lines of a page that are in no block of code."""
    lines = text.splitlines()
    for number, line in text_lines(text):
        lines[number - 1] = change(line)
    return "\n".join(lines) + "\n"


def listed(index: str) -> list[Listed]:
    """List the pages that an index lists, in its order."""
    found = []
    for entry in LISTED.finditer(read(index)):
        about = entry["about"] or ""
        found.append(Listed(entry["title"], resolve(index, entry["target"]), about))
    return found
