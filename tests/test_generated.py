"""The generated pages of the reference and the JSON schema are those of the code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from docstrings import markdown
from generate import SCHEMA, generate, own_plugins
from pages import ROOT
from reference import describe_type, escape

from distillkit.recipe.schema import Recipe

RECIPES = [
    *sorted(ROOT.glob("recipes/*.toml")),
    *sorted(ROOT.glob("plugins/*/distillkit_*/recipes/**/*.toml")),
]


@pytest.fixture(scope="module")
def plugins():
    return own_plugins()


@pytest.fixture(scope="module")
def generated():
    return generate()


def test_what_is_committed_is_current(generated):
    stale = [
        name
        for name, text in generated.items()
        if not (ROOT / name).is_file() or (ROOT / name).read_text(encoding="utf-8") != text
    ]
    assert stale == [], "run `python docs/generate.py`"


def test_the_schema_names_no_place_of_this_machine(generated):
    schema = json.loads(generated[SCHEMA])
    assert [text for text in _texts(schema) if text.startswith("/")] == []
    assert str(ROOT) not in generated[SCHEMA]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _texts(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _texts(entry)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_recipes_first_line_leads_to_the_schema(recipe):
    directive, _, place = recipe.read_text(encoding="utf-8").splitlines()[0].partition(" ")
    assert directive == "#:schema"
    assert (recipe.parent / place).resolve() == ROOT / SCHEMA


def test_every_recipe_key_and_every_option_has_a_meaning(plugins):
    schema = Recipe.model_json_schema()
    models = {"Recipe": schema, **schema["$defs"]}
    for kind in ("teachers", "students", "degradations", "datasets", "metrics"):
        for spec in plugins.specs(kind):
            models[spec.full_name] = spec.config.model_json_schema()
    missing = [
        f"{name}: {key}"
        for name, model in models.items()
        for key, about in model.get("properties", {}).items()
        if not about.get("description")
    ]
    assert missing == []


def test_the_pages_hold_what_they_are_about(generated):
    keys = generated["docs/reference/recipe.md"]
    assert "## `[stage1.teachers.NAME.fake_score]`" in keys
    assert "## `[[data.train]]`, `[[data.eval]]`" in keys
    # Both stages have the table, with defaults of their own.
    assert "| `rank` | integer, at least 1 | `4` |" in keys
    assert "| `rank` | integer, at least 1 | `16` |" in keys
    commands = generated["docs/reference/commands.md"]
    assert "## distillkit recipe copy" in commands
    assert "## distillkit restore-video" in commands
    assert '`"realistic.safetensors"`' in generated["docs/reference/components.md"]
    assert "Protocol: RGB, 8-bit rounded" in generated["docs/reference/metrics.md"]
    assert "### `distillkit_teachers`" in generated["docs/reference/hooks.md"]
    assert "### `Restorer`" in generated["docs/reference/api.md"]


def test_types_of_keys():
    schema = {"$defs": {"Config": {"type": "object"}}}
    assert describe_type({"$ref": "#/$defs/Config"}, schema) == "table"
    optional = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}
    assert describe_type(optional, schema) == "integer, at least 1"
    numbers = {"type": "array", "items": {"type": "number"}}
    assert describe_type(numbers, schema) == "list of number"
    assert describe_type({"enum": ["a", 1]}, schema) == '`"a"`, `1`'


def test_docstrings_become_markdown():
    docstring = """Do it.

    See :func:`~distillkit.data.ops.jpeg` and ``x | y``.

    Args:
        one: a number
            of things.
    """
    import inspect

    lines = markdown(inspect.cleandoc(docstring)).splitlines()
    assert lines[2] == r"See `jpeg` and `x \| y`."
    assert lines[4:] == ["Args:", "", "- `one`: a number", "  of things."]


def test_markup_is_escaped_outside_of_code():
    assert escape("runs/<name> `a|b` *") == r"runs/\<name> `a\|b` \*"
