"""The Chinese README is kept beside the English one: the same commands, links and numbers."""

from __future__ import annotations

import re

from documented_commands import code_lines
from pages import HEADING, ROOT, broken_links, links, text_lines

ENGLISH = "README.md"
CHINESE = "README.zh-CN.md"
# A cell with nothing else in it.
NUMBER = re.compile(r"(?<=\| )[.\d]+(?= \|)")


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def code(text: str) -> list[str]:
    """Return the lines of code of a page; their comments are translated."""
    return [line.partition(" # ")[0].rstrip() for line in code_lines(text) if line]


def headings(text: str) -> list[int]:
    """Return the level of each heading."""
    lines = [line for _, line in text_lines(text)]
    return [line.index(" ") for line in lines if HEADING.match(line)]


def test_both_hold_the_same_code():
    assert code(read(CHINESE)) == code(read(ENGLISH))
    assert len(code(read(ENGLISH))) > 30


def test_both_have_the_same_chapters_and_links():
    english, chinese = read(ENGLISH), read(CHINESE)
    assert headings(chinese) == headings(english)
    targets = {name: {target for _, target in links(read(name))} for name in (ENGLISH, CHINESE)}
    assert targets[ENGLISH] - targets[CHINESE] == {CHINESE}
    assert targets[CHINESE] - targets[ENGLISH] == {ENGLISH}


def test_tables_hold_the_same_numbers():
    def numbers(name: str) -> list[list[str]]:
        rows = [line for line in read(name).splitlines() if line.startswith("|")]
        return [NUMBER.findall(row) for row in rows]

    assert numbers(CHINESE) == numbers(ENGLISH)
    # Numbers are found at all.
    assert sum(len(row) >= 2 for row in numbers(ENGLISH)) > 10


def test_links_lead_somewhere():
    assert broken_links(ENGLISH) == []
    assert broken_links(CHINESE) == []


def test_a_command_that_one_of_them_lacks_is_noticed():
    text = read(ENGLISH)
    assert code(text.replace("make test ", "make tests ", 1)) != code(text)
    assert code(text.replace("# sets up", "# makes", 1)) == code(text)
