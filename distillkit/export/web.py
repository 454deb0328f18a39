"""Export a student as a page: a folder that restores photos in a browser.

The page's ``student.js`` holds the graph and the settings, and a script for each of
:data:`BUILDS` a build of onnxruntime-web, compressed. So the page opens from a disk as well, where
browsers let it fetch nothing.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

from distillkit.errors import DistillkitError, first_line
from distillkit.export.onnx import export_onnx
from distillkit.export.source import About, load_export_source
from distillkit.files.atomic import atomic_dir, scratch_folder
from distillkit.inference.image_types import read_picture
from distillkit.inference.restorer import Restorer
from distillkit.inference.student import Student

WEB_PAGE_FOLDER = Path(__file__).with_name("web_page")
"""The page's files. Plugins that serve it bring their own ``student.js`` and ``backend.js``."""
MAX_SHOWN_PIXELS = 2048 * 2048
"""Pixels of a restored photo that the page blends as fast as a slider moves."""
MAX_SHOWN_SIDE = 16_384
"""The longest side of a picture that every browser shows."""
MAX_INPUT_PIXELS = 500_000
"""Input pixels that a browser restores at once."""
RUNTIME = "onnxruntime-web@1.30.0"


class PinnedFile(NamedTuple):
    """A file of the package's folder ``dist``."""

    name: str
    sha256: str


class Build(NamedTuple):
    """The files of a build of onnxruntime-web."""

    script: PinnedFile
    module: PinnedFile
    wasm: PinnedFile


BUILDS = {
    "wasm": Build(
        PinnedFile(
            "ort.wasm.min.js",
            "faece07e84faa9001f5104bbe4e5c70861d06cb2376a0dea1fa0ad33a67adc81",
        ),
        PinnedFile(
            "ort-wasm-simd-threaded.mjs",
            "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
        ),
        PinnedFile(
            "ort-wasm-simd-threaded.wasm",
            "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
        ),
    ),
    "webgpu": Build(
        PinnedFile(
            "ort.webgpu.min.js",
            "7d65dad7eb4564ad98db9924a259af2e2c68ebfbdbf254fa5d728f1c5736e07a",
        ),
        PinnedFile(
            "ort-wasm-simd-threaded.asyncify.mjs",
            "3d1c85995364bb643302fc6fd877a0c3ba5ae72401815e0f24828a53d9191e28",
        ),
        PinnedFile(
            "ort-wasm-simd-threaded.asyncify.wasm",
            "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da",
        ),
    ),
}
"""By what they compute with. The page loads the second one where there is a graphics card."""
RUNTIME_FILES = {file.name: file.sha256 for build in BUILDS.values() for file in build}
HOW_TO_FETCH = f"fetch it by `npm pack {RUNTIME}`, and give --onnxruntime-web the file"


def export_web(
    run: Path | str, out: Path, runtime: Path | None = None, picture: Path | None = None
) -> str:
    """Write a folder whose page restores photos in a browser.

    The page restores as the Restorer does, in its tiles: by WebGPU where that gives the image that
    the processor gives, elsewhere on one thread of WebAssembly. It asks no server for anything. The
    folder is a static Space of the Hugging Face Hub as it is.

    Args:
        run: A run's folder, an exported one, a plugin's trained student or a Hub repository.
        out: The folder to write.
        runtime: The npm package onnxruntime-web, as npm packs it or unpacked; default: npm fetches
            it.
        picture: A low-quality photo that the page offers as an example; default: none.

    Returns:
        What was compared, and how large the folder is.

    Raises:
        DistillkitError: ``out`` exists, the package is another one or cannot be fetched, the
            picture cannot be read, the student has no graph, or asks for colors that the page
            cannot fix.
    """
    _, source, about, student = load_export_source(run, out)
    settings = _describe_page(student, about)
    if picture is not None:
        settings["examples"] = [_describe_example(picture)]
    scripts = _runtime_scripts(runtime)
    with scratch_folder() as scratch, atomic_dir(out) as folder:
        graph = scratch / "student.onnx"
        report = export_onnx(source, graph)
        if graph.with_name(f"{graph.name}.data").exists():
            raise DistillkitError("not exported: a page cannot hold a student of more than 2 GB")
        shutil.copytree(WEB_PAGE_FOLDER, folder, dirs_exist_ok=True)
        settings["graph"] = _pack(graph.read_bytes())
        scripts["student.js"] = _assign("const STUDENT", settings)
        for name, script in scripts.items():
            (folder / name).write_text(script, encoding="utf-8")
        (folder / "README.md").write_text(space_readme(about), encoding="utf-8")
        size = sum(file.stat().st_size for file in folder.iterdir())
    return f"{report}; a page of {size / 1e6:.1f} MB"


def _describe_page(student: Student, about: About) -> dict[str, Any]:
    """Return the settings of the page, as ``page.js`` lists them.

    Raises:
        DistillkitError: The student's images get their colors from their inputs.
    """
    if student.color_fix != "none":
        raise DistillkitError(
            f'not exported: this student restores with the color fix "{student.color_fix}", which '
            "a page does not have; export a folder instead: -o DIR"
        )
    restorer = Restorer(student)
    licenses = "; ".join(map(": ".join, about["licenses"].items()))
    scale = restorer.scale
    return {
        "title": f"{about['recipe']}: restore a photo",
        "promise": "It does not leave this device.",
        "accept": "image/png,image/jpeg,image/webp,image/avif,image/gif,image/bmp",
        "about": f"Distilled by distillkit; licenses: {licenses}. Runs {RUNTIME} (MIT)",
        "scale": scale,
        "size_multiple": student.model.size_multiple,
        "tile": restorer.tile,
        "overlap": restorer.overlap,
        "tradeoff": student.fixed_tradeoff if student.variant is None else None,
        "max_input_pixels": min(MAX_INPUT_PIXELS, MAX_SHOWN_PIXELS // scale**2),
        "max_input_side": MAX_SHOWN_SIDE // scale,
        "max_shown_pixels": MAX_SHOWN_PIXELS,
        "max_shown_side": MAX_SHOWN_SIDE,
        "findable": "",
        "examples": [],
    }


def _describe_example(path: Path) -> dict[str, str]:
    """Describe an example photo to the page's scripts, which hold it."""
    file = io.BytesIO()
    read_picture(path).save(file, "PNG")
    address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return {"name": path.stem, "alt": f"Example: {path.stem}", "address": address}


def _runtime_scripts(package: Path | None) -> dict[str, str]:
    """Make the scripts that hold the builds of onnxruntime-web, by their names.

    Raises:
        DistillkitError: It cannot be fetched or read, or it is another version.
    """
    if package is None:
        with scratch_folder() as scratch:
            files = _read_package(_fetch_package(scratch))
    else:
        files = _read_package(package)
    scripts = {}
    for name, build in BUILDS.items():
        parts = {
            "script": files[build.script.name].decode(),
            "module": files[build.module.name].decode(),
            "wasm": _pack(files[build.wasm.name]),
        }
        scripts[f"{name}.js"] = _assign(f"ONNXRUNTIME.{name}", parts)
    return scripts


def _fetch_package(folder: Path) -> Path:
    """Let npm fetch the package, from the registry that it is set up for."""
    npm = shutil.which("npm")
    if npm is None:
        raise DistillkitError(f"no npm on the PATH to fetch {RUNTIME}: {HOW_TO_FETCH}")
    command = [npm, "pack", RUNTIME, "--silent", "--pack-destination", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    packed = list(folder.glob("*.tgz"))
    if done.returncode or not packed:
        reason = done.stderr.strip() or done.stdout.strip() or "no word from npm"
        raise DistillkitError(
            f"npm could not fetch {RUNTIME} ({reason.splitlines()[-1]}): elsewhere, {HOW_TO_FETCH}"
        )
    return packed[0]


def _read_package(package: Path) -> dict[str, bytes]:
    """Read the files of the package that the page needs, and check their hashes."""
    read = _read_from_folder if package.is_dir() else _read_from_archive
    try:
        files = read(package)
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as e:
        raise DistillkitError(
            f"{package} - not the npm package {RUNTIME} ({first_line(e)}): {HOW_TO_FETCH}"
        ) from e
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != RUNTIME_FILES[name]:
            raise DistillkitError(
                f"{package} - its {name} is not that of {RUNTIME}: {HOW_TO_FETCH}"
            )
    return files


def _read_from_folder(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "dist" / name).read_bytes() for name in RUNTIME_FILES}


def _read_from_archive(archive: Path) -> dict[str, bytes]:
    files = {}
    with tarfile.open(archive) as members:
        for name in RUNTIME_FILES:
            member = members.extractfile(f"package/dist/{name}")
            if member is None:
                raise KeyError(f"{name} is no file")
            files[name] = member.read()
    return files


def _pack(content: bytes) -> str:
    """Compress and encode; the same bytes give the same text."""
    return base64.b64encode(gzip.compress(content, mtime=0)).decode()


def _assign(name: str, value: dict[str, Any]) -> str:
    return f"{name} = {json.dumps(value)};\n"


def space_readme(about: About) -> str:
    """Write the front page of a static Space."""
    licenses = "\n".join(f"- {role}: {name}" for role, name in about["licenses"].items())
    return f"""---
title: {json.dumps(about["recipe"])}
sdk: static
app_file: index.html
pinned: false
---

# {about["recipe"]}

Restores photos in the browser, with a student distilled by distillkit. Photos do not leave the
device. Open `index.html` from a disk, or put the folder on any web server; as a repository of the
Hub it is a static Space.

Licenses of the models:

{licenses}

`wasm.js` and `webgpu.js` hold {RUNTIME}, MIT License, Copyright (c) Microsoft Corporation.
"""
