"""Downloading a file over HTTP: an interrupted download is gone on from, and the file appears whole or not at all."""

from __future__ import annotations

import hashlib
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from distillkit.errors import WeightsError

TIMEOUT = 30.0
"""Seconds without a byte after which a server counts as gone."""
_CHUNK = 1 << 20


def download(url: str, to: Path, sha256: str | None = None) -> Path:
    """Download ``url`` to the file ``to``, whose folder is made if need be.

    What has arrived lies in ``<to>.part`` until it is complete and its hash is right; a second call asks for the rest of it only.
    Where no hash is known, a file that was replaced on the server between two calls goes unnoticed.

    Raises:
        WeightsError: no such file on the server, no connection, one that broke off, a full disk, or another hash.
    """
    part = to.with_name(to.name + ".part")
    try:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError("neither http nor https")
        _receive(url, part)
    except HTTPError as e:
        raise WeightsError(f"{url} - the server answered {e.code} {e.reason}") from e
    except (OSError, HTTPException, ValueError) as e:
        why = e.reason if isinstance(e, URLError) else e
        raise WeightsError(f"{url} - not downloaded: {why}; what has arrived is kept, the same command goes on from there") from e
    if sha256 is not None and (found := sha256_of(part)) != sha256:
        part.unlink()
        raise WeightsError(f"{url} - what arrived has the sha256 {found}, not {sha256}; it was deleted, fetch it again")
    part.replace(to)
    return to


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
        goes_on = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        start = have if goes_on else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        with (
            part.open("ab" if goes_on else "wb") as file,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=None) as bar,
        ):
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and part.stat().st_size != total:
        raise ConnectionError(f"the connection broke off after {part.stat().st_size} of {total} bytes")
