"""Keys of TOML files, and on which lines they stand: ``tomllib`` reads the values, and knows no lines."""

from __future__ import annotations

import json
import re
import tomllib

KeyPath = tuple[str | int, ...]
"""Keys from the root down; a number is an index into an array."""

_BARE = r"[A-Za-z0-9_-]+"
_TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+|\#[^\n]*)
      | (?P<newline>\n)
      | (?P<string>\"{3}(?s:\\.|.)*?\"{3,5} | '{3}(?s:.)*?'{3,5} | "(?:\\.|[^"\\\n])*" | '[^'\n]*')
      | (?P<mark>[\[\]{}=,.])
      | (?P<word>[^\s\[\]{}=,.\#"']+)""",
    re.VERBOSE,
)


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line, from 1, on which each key, table and array entry of a valid TOML document first appears."""
    return _Scanner(text).document()


def dotted(path: KeyPath) -> str:
    """A key path as TOML and ``--set`` write it: the inverse of :func:`parse_path`."""
    return ".".join(
        str(part) if re.fullmatch(_BARE, str(part)) else quoted(str(part)) for part in path
    )


def quoted(text: str) -> str:
    """A TOML string."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def parse_key(text: str) -> tuple[str, ...]:
    """The parts of a dotted TOML key such as ``data."my photos".weight``.

    Raises:
        ValueError: not a key.
    """
    scanner = _Scanner(text)
    parts = scanner.key()
    if scanner.peek() != "":
        raise ValueError(f"{text!r} is not a dotted key")
    return parts


def parse_path(text: str) -> KeyPath:
    """A dotted key whose numbers are list indices: ``data.train.0.weight``."""
    return tuple(int(part) if part.isdecimal() else part for part in parse_key(text))


class _Scanner:
    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, int]] = []
        self.lines: dict[KeyPath, int] = {}
        self.at = 0
        line = 1
        for match in _TOKEN.finditer(text):
            if match.lastgroup != "space":
                self.tokens.append((match.group(), line))
            line += match.group().count("\n")

    def peek(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def mark(self, path: KeyPath) -> None:
        """``path``, and the tables above it if this is their first mention, stand on the line of the token just taken."""
        line = self.tokens[self.at - 1][1]
        for depth in range(1, len(path) + 1):
            self.lines.setdefault(path[:depth], line)

    def document(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        entries: dict[KeyPath, int] = {}
        while self.at < len(self.tokens):
            if self.peek() == "[":
                table = self.header(entries)
            elif self.peek() == "\n":
                self.take()
            else:
                self.assignment(table)
        return self.lines

    def header(self, entries: dict[KeyPath, int]) -> KeyPath:
        """``[a.b]`` or ``[[a.b]]``; ``entries`` counts the entries of each array of tables."""
        self.take()
        is_array = self.peek() == "["
        if is_array:
            self.take()
        *above, last = self.key()
        path: KeyPath = ()
        for part in above:
            path = (*path, part)
            if path in entries:
                path = (*path, entries[path] - 1)
        path = (*path, last)
        if is_array:
            entries[path] = entries.get(path, 0) + 1
            path = (*path, entries[path] - 1)
        self.mark(path)
        self.at += 2 if is_array else 1
        return path

    def key(self) -> tuple[str, ...]:
        parts = [_unquoted(self.take())]
        while self.peek() == ".":
            self.take()
            parts.append(_unquoted(self.take()))
        return tuple(parts)

    def assignment(self, table: KeyPath) -> None:
        path = (*table, *self.key())
        self.mark(path)
        self.take()
        self.value(path)

    def value(self, path: KeyPath) -> None:
        opening = self.peek()
        if opening not in ("[", "{"):
            while self.peek() not in (",", "]", "}", "\n", ""):
                self.take()
            return
        self.take()
        index = 0
        while self.peek() not in ("]", "}", ""):
            if self.peek() in (",", "\n"):
                self.take()
            elif opening == "{":
                self.assignment(path)
            else:
                self.lines[(*path, index)] = self.tokens[self.at][1]
                self.value((*path, index))
                index += 1
        self.take()


def _unquoted(token: str) -> str:
    if token[:1] in ('"', "'"):
        return tomllib.loads(f"key = {token}")["key"]
    if not re.fullmatch(_BARE, token):
        raise ValueError(f"{token!r} is not a key")
    return token
