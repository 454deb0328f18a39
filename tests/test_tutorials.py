"""The files that the tutorials show are valid recipes and working plugins."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from pages import ROOT

from distillkit.plugins import files, manager
from distillkit.recipe.load import load_recipe

TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
# The name of a file in a line of its own text, then its content.
FILE = re.compile(r"^`([\w.]+)`[^\n]*:\n\n```(?:toml|python)\n(.*?)^```", re.M | re.S)
SOURCE = re.compile(r"^```toml\n(\[\[data\.train\]\]\n.*?)^```", re.M | re.S)


def write_files(page: Path, folder: Path) -> list[Path]:
    """Write the files that a page shows into a folder."""
    written = []
    for name, content in FILE.findall(page.read_text(encoding="utf-8")):
        path = folder / name
        path.write_text(content)
        written.append(path)
    return written


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in an empty folder; forget afterwards which files were plugins."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(files.FILES, "")
    monkeypatch.setattr(sys, "path", [*sys.path])
    manager._installed.cache_clear()
    yield tmp_path
    manager._installed.cache_clear()
    sys.modules.pop("deblock", None)


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.stem)
def test_recipes_of_a_tutorial_are_valid(page, folder):
    written = write_files(page, folder)
    manager.add_plugin_files([path.name for path in written if path.suffix == ".py"])
    for path in written:
        if path.suffix == ".toml":
            load_recipe(path.name)


def test_the_recipes_are_found(folder):
    names = {path.name for page in TUTORIALS for path in write_files(page, folder)}
    assert names >= {"stand_in.toml", "mine.toml", "folder.toml", "pairs.toml"}
    assert names >= {"deblock.py", "deblock.toml", "paper.toml"}


def test_the_plugin_of_a_tutorial_keeps_the_contract(distillkit, folder):
    write_files(ROOT / "docs" / "tutorials" / "new_task.md", folder)
    outcome = distillkit("plugins", "check", "deblock", "--plugin", "deblock.py")
    assert outcome.code == 0, outcome.out + outcome.err


def test_sources_of_the_tutorial_on_data_are_valid(folder):
    text = (ROOT / "docs" / "tutorials" / "own_data.md").read_text(encoding="utf-8")
    sources = SOURCE.findall(text)
    assert len(sources) == 5
    for source in sources:
        recipe = f'extends = ["mini/paper_sr4x"]\n{source}'
        # Without a teacher's images, nothing could be learned from sources without a truth.
        recipe += '[stage1.teachers.realness]\nterm = "output"\n[stage2]\nsteps = 0\n'
        Path("mine.toml").write_text(recipe)
        load_recipe("mine.toml")
