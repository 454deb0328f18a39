"""The checks of a release find what is wrong with a wheel, and what a release lacks."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import release

MINI = release.ROOT / "plugins" / "mini"
INFO = "distillkit_mini-0.1.0.dist-info"
LICENSE = f"{INFO}/licenses/LICENSE"
METADATA = """Metadata-Version: 2.4
Name: distillkit-mini
Version: 0.1.0
Project-URL: Paper, https://arxiv.org/abs/2503.14272
Requires-Dist: distillkit>=0.1
"""


def wheel(folder: Path, **changed: str | None) -> Path:
    """Write a wheel of the plugin ``mini`` without its code."""
    files: dict[str, str | None] = {
        "distillkit_mini/plugin.py": "",
        "distillkit_mini/py.typed": "",
        f"{INFO}/METADATA": METADATA,
        LICENSE: (release.ROOT / "LICENSE").read_text(),
    }
    file = folder / "distillkit_mini-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in (files | changed).items():
            if text is not None:
                archive.writestr(name, text)
    return file


def test_a_right_wheel_has_no_problem(tmp_path: Path) -> None:
    assert list(release.check_wheel(wheel(tmp_path), MINI)) == []


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        (LICENSE, None, "its license is missing"),
        (LICENSE, "MIT", "differs from the repository's"),
        ("distillkit_mini/plugin.py", None, "not in it: distillkit_mini.plugin"),
        ("distillkit_mini/py.typed", None, "py.typed is not in it"),
        ("distillkit_mini/tests/test_a.py", "", "does not belong in it: distillkit_mini/tests"),
        ("tests/test_a.py", "", "does not belong in it: tests/test_a.py"),
        (f"{INFO}/METADATA", METADATA.replace("0.1.0", "0.2.0"), "its version is 0.2.0"),
        (f"{INFO}/METADATA", METADATA.replace("Paper", "Home"), "its links are {'Home'"),
        (
            f"{INFO}/METADATA",
            METADATA + "Requires-Dist: distillkit @ file:///here\n",
            "no package index takes this requirement: distillkit @ file:///here",
        ),
    ],
)
def test_what_is_wrong_with_a_wheel_is_named(
    tmp_path: Path, name: str, text: str | None, problem: str
) -> None:
    (found,) = release.check_wheel(wheel(tmp_path, **{name: text}), MINI)
    assert problem in found


def test_a_release_needs_version_changelog_and_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in ("pyproject.toml", "distillkit/__init__.py", "CHANGELOG.md"):
        copy = tmp_path / file
        copy.parent.mkdir(exist_ok=True)
        copy.write_text((release.ROOT / file).read_text())
    monkeypatch.setattr(release, "ROOT", tmp_path)
    version, changelog, address = release.check_release("v9.9")
    assert version == f"v9.9: __version__ of distillkit is {release.read_version(tmp_path)}"
    assert changelog == 'v9.9: CHANGELOG.md has no heading "## 9.9 - YYYY-MM-DD"'
    assert address.startswith("v9.9: no Repository in [project.urls]")

    (tmp_path / "distillkit" / "__init__.py").write_text('__version__ = "9.9"\n')
    (tmp_path / "CHANGELOG.md").write_text("## 9.9 - 2030-01-02\n")
    project = (tmp_path / "pyproject.toml").read_text()
    links = '[project.urls]\nRepository = "https://example.org"\n'
    (tmp_path / "pyproject.toml").write_text(project.replace("[project.urls]\n", links))
    assert list(release.check_release("v9.9")) == []


def test_what_is_published_begins_with_the_engine_and_leaves_the_example_out() -> None:
    projects = release.find_projects()
    assert projects[0] == release.ROOT
    assert MINI in projects
    assert release.ROOT / "runtime" in projects
    assert release.ROOT / "plugins" / "example" not in projects
