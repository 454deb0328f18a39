"""The command ``distillkit-restore``."""

from __future__ import annotations

import argparse
import signal
import sys
import traceback
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, NoReturn

import distillkit_runtime
from distillkit_runtime.errors import RestoreError
from distillkit_runtime.files import check_files, restore_files
from distillkit_runtime.pictures import limit_megapixels, read_picture
from distillkit_runtime.plans import find_unreadable_photos, plan_jobs
from distillkit_runtime.restorer import Restorer
from distillkit_runtime.tradeoffs import check_tradeoff


class ExitCode(IntEnum):
    """What the command ended with: the codes of ``distillkit``."""

    DONE = 0
    REFUSED = 2
    PARTLY_DONE = 3
    BUG = 70
    INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit."""
    options = _parser().parse_args(arguments)
    # As Ctrl-C does: the block that writes a result then still removes what is incomplete.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(_run(options))
    except RestoreError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(ExitCode.REFUSED)
    except KeyboardInterrupt:
        print("interrupted; the finished results are there", file=sys.stderr)
        sys.exit(ExitCode.INTERRUPTED)
    except Exception:
        traceback.print_exc()
        sys.exit(ExitCode.BUG)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distillkit-restore",
        description="Restore pictures with a student that `distillkit export --onnx` wrote.",
    )
    parser.add_argument("input", metavar="IN", type=Path, help="a picture, or a folder of them")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="a file for one picture, else a folder"
    )
    parser.add_argument("--model", metavar="FILE", type=Path, required=True, help="student.onnx")
    _add_tradeoff(parser)
    _add_existing(parser)
    parser.add_argument(
        "--tile", type=int, help="side of tiles, input pixels; default: 768 pixels of the result"
    )
    parser.add_argument(
        "--megapixels",
        metavar="N",
        type=float,
        help="largest picture that is read, by its header, in million pixels; default: 179",
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"distillkit-runtime {distillkit_runtime.__version__}",
    )
    return parser


def _add_tradeoff(parser: argparse.ArgumentParser) -> None:
    tradeoff = parser.add_mutually_exclusive_group()
    tradeoff.add_argument(
        "--tradeoff", metavar="T", help="0 most realistic (default) ... 1 most faithful"
    )
    tradeoff.add_argument(
        "--tradeoff-map",
        metavar="MASK",
        type=Path,
        help="a gray picture of the tradeoff of each pixel: black 0, white 1",
    )


def _add_existing(parser: argparse.ArgumentParser) -> None:
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument(
        "--overwrite",
        dest="existing",
        action="store_const",
        const="replace",
        default="refuse",
        help="replace existing results",
    )
    existing.add_argument(
        "--skip-existing",
        dest="existing",
        action="store_const",
        const="skip",
        help="make only the results that are missing",
    )


def _run(options: argparse.Namespace) -> ExitCode:
    """Restore what the options name; return the exit code."""
    if options.megapixels is not None:
        limit_megapixels(options.megapixels)
    photos = find_unreadable_photos(options.input)
    if photos:
        print(
            f"left out: {len(photos)} in formats that are not read (HEIC, JPEG XL, camera RAW), "
            f"such as {photos[0]}; convert them to PNG or TIFF first",
            file=sys.stderr,
        )
    jobs = plan_jobs(options.input, options.output, options.existing)
    if not jobs:
        print("all results are there already", file=sys.stderr)
        return ExitCode.DONE
    remaining, failures = check_files(jobs)
    if remaining:
        tradeoff = _read_tradeoff(options)
        restorer = Restorer(options.model, options.tile)
        restorer.student.check_tradeoff(tradeoff)
        failures += restore_files(restorer, remaining, tradeoff)
    if len(failures) == len(jobs):
        raise RestoreError("\n".join(failures))
    for failure in failures:
        print(f"not restored: {failure}", file=sys.stderr)
    return ExitCode.PARTLY_DONE if failures else ExitCode.DONE


def _read_tradeoff(options: argparse.Namespace) -> Any:
    if options.tradeoff_map is not None:
        return read_picture(options.tradeoff_map)
    if options.tradeoff is not None:
        return check_tradeoff(options.tradeoff)
    return None
