"""README and docs name recipe keys that exist."""

import re
from pathlib import Path

import pytest

from distillkit.recipe import fields
from distillkit.recipe.schema import Recipe

ROOT = Path(__file__).parents[1]
PAGES = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/**/*.md"),
    *ROOT.glob("benchmarks/*.md"),
    *ROOT.glob("plugins/*/README.md"),
    *ROOT.glob("integrations/*/README.md"),
    ROOT / "runtime/README.md",
]
# A page's own name, as in training.md, is no key, and neither is a module's.
KEY = re.compile(r"(?<![\w.])(?:stage1|stage2|data|training|evaluation)(?!\.md)(?:\.\w+)+")


def exists(key: str) -> bool:
    """Check whether a recipe may have the dotted key."""
    *path, name = (int(part) if part.isdigit() else part for part in key.split("."))
    known = fields.keys(Recipe, path)
    # Tables with free names, such as stage1.teachers, have no list of keys.
    return name in known or fields.entry_type(_annotation(path), name) is not None


def _annotation(path):
    annotation = Recipe
    for key in path:
        annotation = fields.entry_type(annotation, key)
    return annotation


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_recipe_keys_on_a_page_exist(page):
    keys = set(KEY.findall(page.read_text()))
    assert sorted(key for key in keys if not exists(key)) == []


def test_a_former_key_is_noticed():
    assert exists("stage1.teachers.fidelity.weight")
    assert not exists("stage1.weights.fidelity")
    assert not exists("stage1.teachers.fidelity.wieght")
