"""Download over HTTP with resume, and keep and verify hashes of files."""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from distillkit.console import progress_bar
from distillkit.errors import WeightsError
from distillkit.files.atomic import flush_to_disk, write_file

TIMEOUT = 30.0
"""Seconds without a byte after which a server counts as gone."""
_CHUNK = 1 << 20
_SHA256 = r"[0-9a-f]{64}"


def download(
    url: str,
    to: Path,
    sha256: str | None = None,
) -> Path:
    """Download a file, complete or not at all.

    Until it is complete and its hash is right, the content lies in ``<to>.part``; a second call
    asks for the rest only. The hash is kept in ``<to>.sha256``: from then on :func:`verify_hash`
    and another download of the file hold the content against it. Where no hash is known, a file
    that was replaced on the server between two calls goes unnoticed.

    Args:
        url: Of http or https.
        to: The file; its folder is created if need be.
        sha256: Hexadecimal, or the first digits of it.

    Raises:
        WeightsError: The server has no such file, there is no connection or it broke off, the disk
            is full, or the hash is another one.
        DiskError: The hash cannot be written.
    """
    part = to.with_name(f"{to.name}.part")
    record = _record(to)
    try:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError("neither http nor https")
        expected = sha256 or recorded_sha256(to)
        _receive(url, part)
        actual = sha256_of(part)
        if expected is None or actual.startswith(expected):
            # The hash first: the file must not appear without it.
            write_file(record, f"{actual}  {to.name}\n")
            flush_to_disk(part)
            part.replace(to)
            return to
        part.unlink()
    except HTTPError as error:
        raise WeightsError(f"{url} - the server answered {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        raise WeightsError(
            f"{url} - not downloaded: {reason}; what has arrived is kept, the same command resumes "
            "from there"
        ) from error
    stated = "" if sha256 else f" as before; delete {record} if it is to be replaced"
    raise WeightsError(
        f"{url} - what arrived has the sha256 {actual}, not {expected}{stated}; it was deleted, "
        "fetch it again"
    )


def verify_hash(path: Path, sha256: str | None = None) -> Path:
    """Compare a file's content with the known hashes of it.

    Args:
        path: The file.
        sha256: Hexadecimal, or its first digits; besides it, :func:`recorded_sha256` counts.

    Returns:
        ``path``.

    Raises:
        WeightsError: A hash differs.
    """
    status = path.stat()
    record = _record(path)
    expectations = [
        (sha256, "the recipe or its plugin"),
        (recorded_sha256(path), record.name if record.is_file() else "the Hub"),
    ]
    for expected, origin in expectations:
        if expected is None:
            continue
        actual = _sha256_at(path, status.st_size, status.st_mtime_ns)
        if not actual.startswith(expected):
            raise WeightsError(
                f"{path} - its sha256 is {actual}, not {expected} as {origin} has it: it is "
                "damaged, or was replaced; delete it and fetch it again, or correct "
                f"{origin} if this is the file you want"
            )
    return path


def recorded_sha256(path: Path) -> str | None:
    """Find the hash that is kept with a file.

    It is in ``<path>.sha256``, as the command sha256sum writes it, or in the Hub's cache, which
    names large files by their hashes.

    Raises:
        WeightsError: There is such a record, but no hash in it.
    """
    record = _record(path)
    # A record beside the file was made by a download or by a person, so it comes first.
    if record.is_file():
        found = re.match(rf"{_SHA256}\b", record.read_text(errors="replace"))
        if found is None:
            raise WeightsError(f"{record} - no sha256 in it; delete it, or write it with sha256sum")
        return found[0]
    target = path.resolve().name
    if path.is_symlink() and re.fullmatch(_SHA256, target):
        return target
    return None


def sha256_of(path: Path) -> str:
    """Compute the sha256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=64)
def _sha256_at(
    path: Path,
    size: int,
    modified: int,
) -> str:
    """Compute a file's hash once for each state of the file.

    Student and teachers often read the same one.
    """
    return sha256_of(path)


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _receive(url: str, part: Path) -> None:
    """Download the missing rest of a file."""
    present = 0
    if part.exists():
        present = part.stat().st_size
    try:
        response = _request(url, present)
    except HTTPError as error:
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or present == 0:
            raise
        is_complete = error.headers.get("Content-Range") == f"bytes */{present}"
        if not is_complete:
            # The part is longer than the file, so it is not its beginning.
            part.unlink()
            _receive(url, part)
        return
    part.parent.mkdir(parents=True, exist_ok=True)
    with response:
        _append(response, part, present)


def _request(url: str, present: int) -> HTTPResponse:
    """Ask for a file from byte ``present`` on."""
    headers = {"User-Agent": "distillkit"}
    if present:
        headers["Range"] = f"bytes={present}-"
    return urlopen(Request(url, headers=headers), timeout=TIMEOUT)


def _append(
    response: HTTPResponse,
    part: Path,
    present: int,
) -> None:
    """Write a response behind the bytes that are present.

    If it is the whole file, it replaces them.
    """
    # A server without ranges answers with the whole file.
    start = 0
    mode = "wb"
    content_range = response.headers.get("Content-Range", "")
    if response.status == HTTPStatus.PARTIAL_CONTENT and content_range.startswith(
        f"bytes {present}-"
    ):
        start = present
        mode = "ab"
    total = None
    if "Content-Length" in response.headers:
        total = start + int(response.headers["Content-Length"])
    bar = progress_bar(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem)
    with part.open(mode) as file, bar:
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            bar.update(len(chunk))
    size = part.stat().st_size
    if total is not None and size != total:
        raise ConnectionError(f"the connection broke off after {size} of {total} bytes")
