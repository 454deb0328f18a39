"""What a recipe may set."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from distillkit import Options, WeightFile

LICENSE = "LicenseRef-research-only"
WEIGHTS = Path(__file__).parent / "weights"


class GraphicsOptions(Options):
    count: int = Field(200, ge=1, description="images to draw")
    size: int = Field(480, ge=64, multiple_of=4, description="their side, in pixels")
    seed: int = Field(0, description="seed of the drawings")


class TeacherOptions(Options):
    tradeoff: float = Field(ge=0, le=1, description="0 is most realistic, 1 most faithful")


class SmallOptions(Options):
    trained_for: Literal["psnr", "lpips"] = Field(
        "psnr", description="what its weights were trained for: lpips is a realistic start"
    )

    def weight_files(self) -> tuple[WeightFile, ...]:
        file = WEIGHTS / f"small_{self.trained_for}.safetensors"
        return (WeightFile(path=file, license=LICENSE),)
