"""Downloading over HTTP: an interrupted download is gone on from, the file appears whole or not at all, its hash beside it."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from distillkit.errors import WeightsError
from distillkit.files.atomic import flush_to_disk

TIMEOUT = 30.0
"""Seconds without a byte after which a server counts as gone."""
_CHUNK = 1 << 20


def download(url: str, to: Path, sha256: str | None = None) -> Path:
    """Download ``url`` to the file ``to``, whose folder is made if need be.

    What has arrived lies in ``<to>.part`` until it is complete and its hash is right; a second call asks for the rest of it only.
    Its hash is kept in ``<to>.sha256``, which :func:`check` looks at from then on, and so does another download of it. Where
    no hash is known, a file that was replaced on the server between two calls goes unnoticed.

    Args:
        sha256: hexadecimal, or the first digits of it.

    Raises:
        WeightsError: no such file on the server, no connection, one that broke off, a full disk, or another hash.
    """
    part = to.with_name(to.name + ".part")
    try:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError("neither http nor https")
        wanted = sha256 or recorded_sha256(to)
        _receive(url, part)
        found = sha256_of(part)
        if wanted is None or found.startswith(wanted):
            _record(to).write_text(f"{found}  {to.name}\n")
            flush_to_disk(part)
            part.replace(to)
            return to
        part.unlink()
    except HTTPError as e:
        raise WeightsError(f"{url} - the server answered {e.code} {e.reason}") from e
    except (OSError, HTTPException, ValueError) as e:
        why = e.reason if isinstance(e, URLError) else e
        raise WeightsError(
            f"{url} - not downloaded: {why}; what has arrived is kept, the same command goes on from there"
        ) from e
    whose = "" if sha256 else f" as before; delete {_record(to)} if it is to be replaced"
    raise WeightsError(
        f"{url} - what arrived has the sha256 {found}, not {wanted}{whose}; it was deleted, fetch it again"
    )


def check(path: Path, sha256: str | None = None) -> Path:
    """``path``, whose content has been held against ``sha256`` (or its first digits) and against :func:`recorded_sha256`.

    Raises:
        WeightsError: another hash.
    """
    state, record = path.stat(), _record(path).name if _record(path).is_file() else "the Hub"
    for wanted, where in ((sha256, "the recipe or its plugin"), (recorded_sha256(path), record)):
        if wanted is not None and not (
            found := _sha256_at(path, state.st_size, state.st_mtime_ns)
        ).startswith(wanted):
            what = f"its sha256 is {found}, not {wanted} as {where} has it: it is damaged, or was replaced"
            raise WeightsError(
                f"{path} - {what}; delete it and fetch it again, or correct {where} if this is the file you want"
            )
    return path


def recorded_sha256(path: Path) -> str | None:
    """What is known of a file by where it lies: the hash in ``<path>.sha256`` (as sha256sum writes it, so that anybody can make one
    for a file got by hand), or in the Hub's cache, which calls large files by theirs.

    Raises:
        WeightsError: there is such a file, but no hash in it.
    """
    if _record(path).is_file():
        found = re.match(r"[0-9a-f]{64}\b", _record(path).read_text(errors="replace"))
        if found is None:
            raise WeightsError(
                f"{_record(path)} - no sha256 in it; delete it, or write it anew with sha256sum"
            )
        return found[0]
    target = path.resolve().name
    return target if path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", target) else None


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


@lru_cache(maxsize=64)
def _sha256_at(path: Path, size: int, time: int) -> str:
    """Hash of a file, computed once for each of its states: student and teachers often read the same one."""
    return sha256_of(path)


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _receive(url: str, part: Path) -> None:
    """Bring ``part`` to the full length of ``url``."""
    from tqdm import tqdm

    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "distillkit"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as e:
        if e.code != 416 or not have:
            raise
        if e.headers.get("Content-Range") == f"bytes */{have}":  # it is all here
            return
        part.unlink()
        return _receive(url, part)
    part.parent.mkdir(parents=True, exist_ok=True)
    with response:
        goes_on = response.status == 206 and response.headers.get("Content-Range", "").startswith(
            f"bytes {have}-"
        )
        start = have if goes_on else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        with (
            part.open("ab" if goes_on else "wb") as file,
            tqdm(
                total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=None
            ) as bar,
        ):
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and part.stat().st_size != total:
        raise ConnectionError(
            f"the connection broke off after {part.stat().st_size} of {total} bytes"
        )
