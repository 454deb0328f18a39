"""Key paths of TOML documents: as tuples, as dotted texts, and the lines on which they stand.

``tomllib`` reads values only and does not report lines.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

KeyPath = tuple[str | int, ...]
"""Keys from the root down; a number is an index into an array."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+|\#[^\n]*)
      | (?P<newline>\n)
      | (?P<string>\"{3}(?s:\\.|.)*?\"{3,5} | '{3}(?s:.)*?'{3,5} | "(?:\\.|[^"\\\n])*" | '[^'\n]*')
      | (?P<mark>[\[\]{}=,.])
      | (?P<word>[^\s\[\]{}=,.\#"']+)""",
    re.VERBOSE,
)
_END_OF_VALUE = (",", "]", "}", "\n", "")
_BETWEEN_ENTRIES = (",", "\n")


def key_lines(text: str) -> dict[KeyPath, int]:
    """Find the line where each key, table and array entry first appears.

    Args:
        text: A valid TOML document.

    Returns:
        Line numbers, counted from 1, by key path.
    """
    return _Scanner(text).scan()


def children(value: Any) -> Iterable[tuple[str | int, Any]]:
    """List the entries of a table or an array, each with its key or index."""
    if isinstance(value, dict):
        return value.items()
    if isinstance(value, list):
        return enumerate(value)
    return ()


def dotted(path: KeyPath) -> str:
    """Write a key path as TOML and ``--set`` do.

    This is the inverse of :func:`parse_path`.
    """
    return ".".join(_key_text(str(part)) for part in path)


def quoted(text: str) -> str:
    """Write a text as a TOML string."""
    # JSON escapes what TOML does, but for this one control character.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def parse_key(text: str) -> tuple[str, ...]:
    """Split a dotted TOML key such as ``data."my photos".weight``.

    Raises:
        ValueError: Not a key.
    """
    scanner = _Scanner(text)
    parts = scanner.key()
    if scanner.token:
        raise ValueError(f"{text!r} is not a dotted key")
    return parts


def parse_path(text: str) -> KeyPath:
    """Split a dotted key whose numbers are list indices.

    For example, ``data.train.0.weight`` becomes ``("data", "train", 0, "weight")``.

    Raises:
        ValueError: Not a key.
    """
    path: KeyPath = ()
    for part in parse_key(text):
        path += (int(part) if part.isdecimal() else part,)
    return path


class _Scanner:
    """A walk over the tokens of a TOML document that notes where keys stand."""

    token: str
    """The next token; empty at the end."""
    line: int
    """Its line."""

    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self.table_counts: Counter[KeyPath] = Counter()
        """How many entries each array of tables has so far."""
        self.tokens = _tokenize(text)
        self.advance()

    def advance(self) -> None:
        self.token, self.line = next(self.tokens, ("", 0))

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while self.token:
            if self.token == "[":
                table = self.header()
            elif self.token == "\n":
                self.advance()
            else:
                self.assignment(table)
        return self.lines

    def note(self, path: KeyPath, line: int) -> None:
        """Note the line of a key, and of tables that it is first to mention."""
        while path:
            self.lines.setdefault(path, line)
            path = path[:-1]

    def header(self) -> KeyPath:
        """Read ``[a.b]`` or ``[[a.b]]``."""
        line = self.line
        self.advance()
        is_array = self.token == "["
        if is_array:
            self.advance()
        path: KeyPath = ()
        for part in self.key():
            path = (*self.newest_entry(path), part)
        self.advance()
        if is_array:
            self.advance()
            self.table_counts[path] += 1
            path = self.newest_entry(path)
        self.note(path, line)
        return path

    def newest_entry(self, path: KeyPath) -> KeyPath:
        """Return the last entry of an array of tables; any other path as it is."""
        count = self.table_counts[path]
        if count == 0:
            return path
        return (*path, count - 1)

    def key(self) -> tuple[str, ...]:
        parts = [self.key_part()]
        while self.token == ".":
            self.advance()
            parts.append(self.key_part())
        return tuple(parts)

    def key_part(self) -> str:
        token = self.token
        self.advance()
        if token.startswith(('"', "'")):
            return tomllib.loads(f"key = {token}")["key"]
        if not _BARE_KEY.fullmatch(token):
            raise ValueError(f"{token!r} is not a key")
        return token

    def assignment(self, table: KeyPath) -> None:
        line = self.line
        path = table + self.key()
        self.note(path, line)
        self.advance()
        self.value(path)

    def value(self, path: KeyPath) -> None:
        if self.token == "[":
            self.array(path)
        elif self.token == "{":
            self.inline_table(path)
        else:
            # A number or date may be several tokens: 1.5 is three.
            while self.token not in _END_OF_VALUE:
                self.advance()

    def array(self, path: KeyPath) -> None:
        self.advance()
        index = 0
        while self.token != "]":
            if self.token in _BETWEEN_ENTRIES:
                self.advance()
                continue
            entry = (*path, index)
            self.lines[entry] = self.line
            self.value(entry)
            index += 1
        self.advance()

    def inline_table(self, path: KeyPath) -> None:
        self.advance()
        while self.token != "}":
            if self.token in _BETWEEN_ENTRIES:
                self.advance()
            else:
                self.assignment(path)
        self.advance()


def _tokenize(text: str) -> Iterator[tuple[str, int]]:
    """Yield the tokens with their lines; a string may span several lines."""
    line = 1
    for match in _TOKEN.finditer(text):
        token = match.group()
        if match.lastgroup != "space":
            yield token, line
        line += token.count("\n")


def _key_text(key: str) -> str:
    if _BARE_KEY.fullmatch(key):
        return key
    return quoted(key)
