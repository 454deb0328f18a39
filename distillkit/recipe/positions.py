"""Keys of TOML files and the lines on which they stand; ``tomllib`` reads values only."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable
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


def key_lines(text: str) -> dict[KeyPath, int]:
    """Find the line where each key, table and array entry first appears.

    Args:
        text: a valid TOML document.

    Returns:
        line numbers, counted from 1, by key path.
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
    """Write a key path as TOML and ``--set`` do: the inverse of :func:`parse_path`."""
    return ".".join(_key_text(str(part)) for part in path)


def quoted(text: str) -> str:
    """Write a text as a TOML string."""
    # JSON escapes what TOML does, but for this one control character.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def parse_key(text: str) -> tuple[str, ...]:
    """Split a dotted TOML key such as ``data."my photos".weight``.

    Raises:
        ValueError: not a key.
    """
    scanner = _Scanner(text)
    parts = scanner.key()
    if scanner.peek() != "":
        raise ValueError(f"{text!r} is not a dotted key")
    return parts


def parse_path(text: str) -> KeyPath:
    """Split a dotted key whose numbers are list indices: ``data.train.0.weight``."""
    return tuple(int(part) if part.isdecimal() else part for part in parse_key(text))


class _Scanner:
    """A walk over the tokens of a TOML document that notes where keys stand."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, int]] = []
        self.position = 0
        self.lines: dict[KeyPath, int] = {}
        self.array_lengths: dict[KeyPath, int] = {}
        """How many entries each array of tables has so far."""
        line = 1
        for match in _TOKEN.finditer(text):
            token = match.group()
            if match.lastgroup != "space":
                self.tokens.append((token, line))
            line += token.count("\n")

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        while self.position < len(self.tokens):
            token = self.peek()
            if token == "[":
                table = self.header()
            elif token == "\n":
                self.take()
            else:
                self.assignment(table)
        return self.lines

    def peek(self) -> str:
        """Return the next token, or an empty text at the end."""
        if self.position >= len(self.tokens):
            return ""
        return self.tokens[self.position][0]

    def take(self) -> str:
        """Return the next token and step over it."""
        token = self.peek()
        self.position += 1
        return token

    def note(self, path: KeyPath) -> None:
        """Note the line of the token just taken for ``path`` and its tables.

        The first mention counts: a table may have got its line before.
        """
        _, line = self.tokens[self.position - 1]
        for depth in range(1, len(path) + 1):
            self.lines.setdefault(path[:depth], line)

    def header(self) -> KeyPath:
        """Read ``[a.b]`` or ``[[a.b]]``."""
        self.take()
        is_array = self.peek() == "["
        if is_array:
            self.take()
        *parents, name = self.key()
        path: KeyPath = ()
        for parent in parents:
            path = self.last_entry((*path, parent))
        path = (*path, name)
        if is_array:
            self.array_lengths[path] = self.array_lengths.get(path, 0) + 1
            path = self.last_entry(path)
        self.note(path)
        self.take()
        if is_array:
            self.take()
        return path

    def last_entry(self, path: KeyPath) -> KeyPath:
        """Return the newest entry of an array of tables; any other path as it is."""
        if path not in self.array_lengths:
            return path
        return (*path, self.array_lengths[path] - 1)

    def key(self) -> tuple[str, ...]:
        parts = [_unquoted(self.take())]
        while self.peek() == ".":
            self.take()
            parts.append(_unquoted(self.take()))
        return tuple(parts)

    def assignment(self, table: KeyPath) -> None:
        path = (*table, *self.key())
        self.note(path)
        self.take()
        self.value(path)

    def value(self, path: KeyPath) -> None:
        opening = self.peek()
        if opening == "[":
            self.array(path)
        elif opening == "{":
            self.inline_table(path)
        else:
            # A number or date may be several tokens: 1.5 is three.
            while self.peek() not in (",", "]", "}", "\n", ""):
                self.take()

    def array(self, path: KeyPath) -> None:
        self.take()
        index = 0
        while self.peek() not in ("]", ""):
            if self.peek() in (",", "\n"):
                self.take()
                continue
            entry = (*path, index)
            _, self.lines[entry] = self.tokens[self.position]
            self.value(entry)
            index += 1
        self.take()

    def inline_table(self, path: KeyPath) -> None:
        self.take()
        while self.peek() not in ("}", ""):
            if self.peek() in (",", "\n"):
                self.take()
            else:
                self.assignment(path)
        self.take()


def _key_text(key: str) -> str:
    if _BARE_KEY.fullmatch(key):
        return key
    return quoted(key)


def _unquoted(token: str) -> str:
    if token.startswith(('"', "'")):
        return tomllib.loads(f"key = {token}")["key"]
    if not _BARE_KEY.fullmatch(token):
        raise ValueError(f"{token!r} is not a key")
    return token
