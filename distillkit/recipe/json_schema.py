"""The JSON schema of recipes, for editors.

It holds the skeleton, and the options of every installed plugin under its ``use`` names. No key is
required, because a recipe may extend one that has it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from distillkit.plugins.descriptors import Spec
from distillkit.plugins.manager import Kind, Plugins, load_plugins
from distillkit.recipe import fields
from distillkit.recipe.key_paths import KeyPath
from distillkit.recipe.load import ANY, KINDS
from distillkit.recipe.schema import Recipe

Schema = dict[str, Any]

_SOURCE_KINDS = ("use", "hub", "imagefolder", "parquet")
"""The keys of a data source that exclude each other."""


def json_schema(plugins: Plugins | None = None) -> Schema:
    """Build a JSON schema (draft 2020-12) of recipes.

    Which options a ``use`` table has follows from the name in it.

    Args:
        plugins: Whose options to include; default: the installed plugins.
    """
    plugins = plugins or load_plugins()
    schema: Schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    schema |= Recipe.model_json_schema()
    definitions = schema["$defs"]
    for table in (schema, *definitions.values()):
        table.pop("required", None)
    source = definitions["SourceConfig"]
    for kind in sorted(set(KINDS.values())):
        shared = _shared_keys(source) if kind == "datasets" else {}
        definitions[kind] = _component(kind, plugins, shared, definitions)
    for path, kind in KINDS.items():
        _point_at(kind, path, schema)
    del definitions["UseConfig"]
    _separate_datasets(definitions)
    return schema


def schema_text(plugins: Plugins | None = None) -> str:
    """Write the JSON schema of recipes as the text of a file."""
    return json.dumps(json_schema(plugins), indent=2) + "\n"


def _shared_keys(source: Schema) -> Schema:
    """Return the keys that a plugin's dataset shares with other data sources."""
    properties = source["properties"].items()
    own = (*_SOURCE_KINDS, "lq_folder")
    return {key: value for key, value in properties if key not in own}


def _component(kind: Kind, plugins: Plugins, shared: Schema, definitions: Schema) -> Schema:
    """Describe what may stand for a component.

    That is a table with its options, or the name alone.

    Args:
        kind: The kind of the component.
        plugins: That offer components.
        shared: Keys that every table of this kind has.
        definitions: Receives the models that the options are made of.
    """
    specs = plugins.specs(kind)
    short_names = Counter(spec.name for spec in specs)
    choices: list[Schema] = []
    all_names: list[str] = []
    for spec in specs:
        names = [spec.full_name]
        if short_names[spec.name] == 1:
            names.append(spec.name)
        options = _options(kind, spec, definitions)
        choices.append(_table(spec, names, shared, options))
        all_names += names
    choices.append({"type": "string", "examples": sorted(all_names)})
    # options only: the recipe that is extended names the component
    choices.append({"type": "object", "not": {"required": ["use"]}})
    return {"anyOf": choices}


def _options(kind: Kind, spec: Spec, definitions: Schema) -> Schema:
    """Build the schema of a component's options.

    The models that the options are made of get names of their own.
    """
    prefix = f"{kind}.{spec.full_name.replace('/', '.')}"
    options = spec.config.model_json_schema(ref_template=f"#/$defs/{prefix}.{{model}}")
    for name, model in options.pop("$defs", {}).items():
        definitions[f"{prefix}.{name}"] = model
    for key in fields.packaged_defaults(spec.config):
        # where the package is, differs from machine to machine
        del options["properties"][key]["default"]
    return options


def _table(spec: Spec, names: Sequence[str], shared: Schema, options: Schema) -> Schema:
    """Describe the table that names one component."""
    properties = {**shared, **options.get("properties", {}), "use": {"enum": names}}
    return {
        **options,
        "title": spec.full_name,
        "description": spec.summary,
        "properties": properties,
        "required": ["use"],
    }


def _step_into(place: Schema, part: str | int) -> Schema:
    """Return the schema of a key, or of every entry of a list or table."""
    if part != ANY:
        return place["properties"][part]
    if "items" in place:
        return place["items"]
    # a table with keys of any name, which match one pattern
    (entry,) = place["patternProperties"].values()
    return entry


def _point_at(kind: Kind, path: KeyPath, schema: Schema) -> None:
    """Let one place of the recipe refer to the components of a kind."""
    definitions = schema["$defs"]
    place = schema
    for part in path:
        while "$ref" in place:
            place = definitions[place["$ref"].removeprefix("#/$defs/")]
        place = _step_into(place, part)
    for choice in (place, *place.get("anyOf", [])):
        if choice.get("$ref") == "#/$defs/UseConfig":
            choice["$ref"] = f"#/$defs/{kind}"


def _separate_datasets(definitions: Schema) -> None:
    """Divide data sources into datasets of plugins and all others.

    The model allows any key in a source, because a plugin's dataset has options of its own.
    """
    source = definitions["SourceConfig"]
    del source["properties"]["use"]
    source["additionalProperties"] = False
    definitions["SourceConfig"] = {"anyOf": [source, {"$ref": "#/$defs/datasets"}]}
