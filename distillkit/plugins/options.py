"""What every table of options in a recipe has in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from distillkit.files.weights import WeightFile


class Options(BaseModel):
    """What a recipe may set for one thing of a plugin: subclass it, with one field per key.

    Unknown keys are refused, so a misspelled key is an error with its file and line.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    def weight_files(self) -> tuple[WeightFile, ...]:
        """List the files that must be on disk before a run starts.

        Here these are the fields that hold a :class:`WeightFile`; override it to name others.
        """
        return tuple(value for _, value in self if isinstance(value, WeightFile))
