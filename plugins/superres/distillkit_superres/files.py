"""How a recipe names a weight file: ``"models/x.pth"``, or ``{ repo = "owner/name", filename = "x.pth" }`` for one on the Hub."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from distillkit import WeightFile, WeightsError

_KEYS = {field.name for field in fields(WeightFile)}


def _table(value: Any) -> Any:
    if isinstance(value, str):
        return {"path": value}
    if isinstance(value, dict) and (unknown := value.keys() - _KEYS):
        raise ValueError(f"unknown key {', '.join(sorted(unknown))}; a weight file has {', '.join(sorted(_KEYS))}")
    return value


def _one_place(file: WeightFile) -> WeightFile:
    if (file.path is None) == (file.repo is None) or (file.repo is None) != (file.filename is None):
        raise ValueError("give a path, or repo and filename of a file on the Hub")
    return file


Location = Annotated[WeightFile, BeforeValidator(_table), AfterValidator(_one_place)]
"""Type of a config field that names a weight file."""


def fetch(file: WeightFile, origin: str) -> Path:
    """The file's local path, downloaded from the Hub if need be.

    Raises:
        WeightsError: a local file that is not there; the text says where it is published (``origin``).
    """
    if file.path is not None and file.find() is None:
        raise WeightsError(f"{file.path} - no such weight file; it is published as {origin} ({file.license})")
    return file.fetch()
