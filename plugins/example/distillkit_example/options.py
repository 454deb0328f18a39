"""What a recipe may set. Light as well: a recipe is checked without torch."""

from __future__ import annotations

from pydantic import Field

from distillkit import Options


class SharpenOptions(Options):
    """Options of ``example/sharpen``."""

    scale: int = Field(4, ge=1, description="output size divided by input size")
    strength: float = Field(0.3, ge=0, description="how much is sharpened")


class GrainOptions(Options):
    """Options of ``example/grain``."""

    scale: int = Field(4, ge=1, description="input size divided by output size")
    strength: float = Field(0.3, ge=0, description="standard deviation of the strongest grain")
