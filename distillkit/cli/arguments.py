"""What the options of the command line mean, where that is more than a word or a number. What is refused names the option."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from distillkit.errors import DistillkitError

Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, cuda:1, ...; default: a GPU where there is one")
]


def tradeoffs_of(text: str | None) -> list[float | None]:
    """``"0,0.5,1"`` -> [0.0, 0.5, 1.0]; nothing -> [None], the student's own."""
    return [None] if text is None else [*numbers_of("--tradeoff", text)]


def numbers_of(option: str, text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = [float("nan")]
    if not all(0 <= value <= 1 for value in values):
        raise DistillkitError(
            f"{option} {text} - expected a number from 0 to 1, or several with commas between them"
        )
    return values


def folders_of(texts: list[str]) -> dict[str, Path]:
    """``["ours=outputs"]`` -> {"ours": Path("outputs")}."""
    folders: dict[str, Path] = {}
    for text in texts:
        name, equals, folder = text.partition("=")
        if not (name and equals and folder) or name in folders:
            raise DistillkitError(f"--method {text} - expected NAME=DIR, each name once")
        folders[name] = Path(folder)
    return folders


def pair_of(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    first, comma, second = (part.strip() for part in text.partition(","))
    if not (first and comma and second) or "," in second or first == second:
        raise DistillkitError(
            f"--combine {text} - expected the names of two methods with a comma between them"
        )
    return first, second


def settings_of(texts: list[str]) -> dict[str, Any]:
    try:
        return tomllib.loads("\n".join(texts))
    except tomllib.TOMLDecodeError as e:
        raise DistillkitError(
            f"--set {' '.join(texts)} - not KEY=VALUE in TOML; a string needs quotes: --set 'a=\"b\"'"
        ) from e
