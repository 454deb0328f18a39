"""Build every distribution and check it: ``python tools/release.py [--tag v0.1.0]``.

It needs ``pip install --group release`` and the package index. Wheels and sdists go into ``dist/``,
each wheel built from its sdist. ``--tag`` also checks what only a release has: the version, its
entry in CHANGELOG.md, and the address of the sources. ``make dist`` runs it.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable, Iterator, Set
from email import message_from_string
from email.message import Message
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
PRIVATE = "Private :: Do Not Upload"
"""The classifier of a distribution that is not published, which package indexes refuse."""


def main() -> int:
    """Build and check; return how many problems there are, at most 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tag", metavar="vVERSION", help="the release that this will be")
    tag = parser.parse_args().tag
    problems: list[str] = []
    if tag is not None:
        problems += check_release(tag)
    shutil.rmtree(DIST, ignore_errors=True)
    for project in find_projects():
        python("-m", "build", "--outdir", str(DIST), str(project))
        (wheel,) = DIST.glob(f"{wheel_name(project)}-*.whl")
        problems += [f"{wheel.name}: {problem}" for problem in check_wheel(wheel, project)]
    python("-m", "twine", "check", "--strict", *map(str, sorted(DIST.iterdir())))
    for problem in problems:
        print(f"PROBLEM {problem}", file=sys.stderr)
    return min(len(problems), 1)


def python(*arguments: str) -> None:
    """Run a module of this Python; end the program where it fails."""
    done = subprocess.run([sys.executable, *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def find_projects() -> list[Path]:
    """List the folders of the distributions that are published, the engine first."""
    members = read_project(ROOT)["tool"]["uv"]["workspace"]["members"]
    folders = [ROOT]
    for pattern in members:
        folders += sorted(path.parent for path in ROOT.glob(f"{pattern}/pyproject.toml"))
    return [folder for folder in folders if not is_private(folder)]


def is_private(folder: Path) -> bool:
    """Tell whether a project is not to be published."""
    return PRIVATE in read_project(folder)["project"].get("classifiers", [])


def read_project(folder: Path) -> dict[str, Any]:
    """Read a folder's pyproject.toml."""
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def wheel_name(project: Path) -> str:
    """Return the name of a project as its wheel spells it."""
    name = read_project(project)["project"]["name"]
    return re.sub(r"[-_.]+", "_", name)


def check_wheel(wheel: Path, project: Path) -> Iterator[str]:
    """Compare a wheel with its project.

    Args:
        wheel: The file.
        project: The folder that it was built from.

    Yields:
        Each problem, in one line.
    """
    table = read_project(project)["project"]
    info = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = message_from_string(archive.read(f"{info}/METADATA").decode())
        license_text = b""
        if f"{info}/licenses/LICENSE" in names:
            license_text = archive.read(f"{info}/licenses/LICENSE")
    if license_text != (ROOT / "LICENSE").read_bytes():
        yield "its license is missing, or differs from the repository's"
    package = wheel_name(project)
    for name in sorted(names):
        outside = name.partition("/")[0] not in (package, info)
        if outside or name.startswith(f"{package}/tests/"):
            yield f"this does not belong in it: {name}"
    modules = table.get("entry-points", {}).get("distillkit", {}).values()
    yield from check_modules(names, package, modules)
    if metadata["Version"] != read_version(project):
        yield f"its version is {metadata['Version']}, the project's {read_version(project)}"
    yield from check_metadata(metadata, table)


def check_modules(names: Set[str], package: str, modules: Iterable[str]) -> Iterator[str]:
    """Check that a wheel has its entry points' modules, and says that it is typed."""
    for module in modules:
        path = module.replace(".", "/")
        if not {f"{path}.py", f"{path}/__init__.py"} & names:
            yield f"its entry point names a module that is not in it: {module}"
    if f"{package}/py.typed" not in names:
        yield f"{package}/py.typed is not in it, so type checkers ignore its types"


def check_metadata(metadata: Message, table: dict[str, Any]) -> Iterator[str]:
    """Compare the metadata of a wheel with its project's table, and with the engine's.

    Args:
        metadata: The headers of METADATA.
        table: ``[project]``.

    Yields:
        Each problem, in one line.
    """
    engine = read_project(ROOT)["project"]
    for key in ("requires-python", "urls"):
        if table.get(key) != engine[key]:
            yield f"{key} in [project] differs from the engine's"
    # Weights that a distribution carries may have a license of their own, after the code's.
    if table.get("license", "").split(" AND ")[0] != engine["license"]:
        yield "license in [project] does not begin with the engine's"
    urls = dict(value.split(", ", 1) for value in metadata.get_all("Project-URL", []))
    if urls != engine["urls"]:
        yield f"its links are {urls}, those of [project.urls] are {engine['urls']}"
    for requirement in metadata.get_all("Requires-Dist", []):
        if "@" in requirement:
            yield f"no package index takes this requirement: {requirement}"


def check_release(tag: str) -> Iterator[str]:
    """List what is missing for a release under a tag."""
    version = tag.removeprefix("v")
    if version != read_version(ROOT):
        yield f"{tag}: __version__ of distillkit is {read_version(ROOT)}"
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## \[?{re.escape(version)}\]?\W+\d{{4}}-\d\d-\d\d", changelog, re.M):
        yield f'{tag}: CHANGELOG.md has no heading "## {version} - YYYY-MM-DD"'
    if "Repository" not in read_project(ROOT)["project"]["urls"]:
        yield f"{tag}: no Repository in [project.urls], see RELEASING.md"


def read_version(project: Path) -> str:
    """Read a project's version: that of its table, or of the module that its table names."""
    tables = read_project(project)
    if "version" in tables["project"]:
        return tables["project"]["version"]
    source = (project / tables["tool"]["hatch"]["version"]["path"]).read_text(encoding="utf-8")
    return re.findall(r'^__version__ = "(.+)"$', source, re.M)[0]


if __name__ == "__main__":
    sys.exit(main())
