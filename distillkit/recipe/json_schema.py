"""The JSON schema of recipes, for editors: the skeleton and the options of every installed plugin under its ``use`` names."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import Any

from distillkit.plugins.descriptors import Spec
from distillkit.plugins.manager import Kind, Plugins, load_plugins
from distillkit.recipe.load import KINDS
from distillkit.recipe.schema import Recipe

Schema = dict[str, Any]


def json_schema(plugins: Plugins | None = None) -> Schema:
    """A JSON schema (draft 2020-12). Which options a ``use`` table has follows from the name in it.

    Args:
        plugins: whose options to include; default: the installed plugins.
    """
    plugins = plugins or load_plugins()
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Recipe.model_json_schema(),
    }
    definitions = schema["$defs"]
    source = definitions["Source"]
    shared = {
        key: value
        for key, value in source["properties"].items()
        if key not in ("use", "hub", "imagefolder", "parquet")
    }
    for kind in sorted(set(KINDS.values())):
        definitions[kind] = _any_of(
            kind, plugins, shared if kind == "datasets" else {}, definitions
        )
    for path, kind in KINDS.items():
        _point_at(kind, path, schema, definitions)
    del source["properties"]["use"]
    definitions["Source"] = {
        "anyOf": [{**source, "additionalProperties": False}, {"$ref": "#/$defs/datasets"}]
    }
    del definitions["Use"]
    return schema


def _any_of(kind: Kind, plugins: Plugins, shared: Schema, definitions: Schema) -> Schema:
    """Whatever may stand where a recipe names something of ``kind``: a table with its options, or the name alone."""
    specs = plugins.specs(kind)
    short = Counter(spec.name for spec in specs.values())
    names = {
        full: [full, spec.name] if short[spec.name] == 1 else [full] for full, spec in specs.items()
    }
    tables = [
        _table(kind, full, names[full], spec, shared, definitions) for full, spec in specs.items()
    ]
    return {"anyOf": [*tables, {"type": "string", "examples": sorted(chain(*names.values()))}]}


def _table(
    kind: Kind, full_name: str, names: list[str], spec: Spec, shared: Schema, definitions: Schema
) -> Schema:
    """The schema of the tables that name ``spec``; ``shared`` are the keys that every table of its kind has."""
    prefix = f"{kind}.{full_name.replace('/', '.')}"
    options = spec.config.model_json_schema(ref_template=f"#/$defs/{prefix}.{{model}}")
    definitions |= {f"{prefix}.{name}": model for name, model in options.pop("$defs", {}).items()}
    return {
        **options,
        "title": full_name,
        "description": spec.summary,
        "properties": {**shared, **options.get("properties", {}), "use": {"enum": names}},
        "required": ["use", *options.get("required", [])],
    }


def _point_at(kind: Kind, path: tuple[str | int, ...], schema: Schema, definitions: Schema) -> None:
    """Let the place at ``path`` of the recipe refer to the tables of ``kind`` instead of to any ``use`` table."""
    for part in path:
        while "$ref" in schema:
            schema = definitions[schema["$ref"].rpartition("/")[2]]
        schema = schema["items"] if part == "*" else schema["properties"][part]
    for holder in (schema, *schema.get("anyOf", [])):
        if holder.get("$ref") == "#/$defs/Use":
            holder["$ref"] = f"#/$defs/{kind}"
