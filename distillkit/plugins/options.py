"""What every table of options in a recipe has in common."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import BaseModel, ConfigDict

from distillkit.files.weights import WeightFile


class Options(BaseModel):
    """What a recipe may set for one thing of a plugin: subclass it, with one field per key.

    Unknown keys are refused, so a misspelled key is an error with its file and line.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )

    def weight_files(self) -> tuple[WeightFile, ...]:
        """List the files that must be on disk before a run starts.

        Here these are the fields that hold a :class:`WeightFile`; override it to name others.
        """
        return tuple(value for _, value in self if isinstance(value, WeightFile))


def find_problem(options: type[Options], reserved: Collection[str]) -> str:
    """Find a reserved name or a changed engine setting in a plugin's options; empty without one.

    Args:
        options: The plugin's class.
        reserved: Names that no option may have.
    """
    for name, field in options.model_fields.items():
        for taken in (name, field.alias):
            if taken in reserved:
                return f'has an option "{taken}", and that name is reserved; rename it'
    for setting, value in Options.model_config.items():
        if options.model_config.get(setting) != value:
            found = options.model_config.get(setting)
            return f"sets {setting} = {found!r}, and the engine has {value!r} for all options"
    return ""
