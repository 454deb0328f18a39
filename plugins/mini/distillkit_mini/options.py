"""What a recipe may set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from distillkit import Options, WeightFile
from distillkit_mini.plugin import LICENSE

SHIPPED = Path(__file__).parent / "weights"

Steps = Annotated[int, Field(ge=1, le=100, description="network evaluations per restoration")]
Temperature = Annotated[
    float, Field(ge=0, le=1, description="starting noise, as a share of the process's own")
]
Weights = Annotated[WeightFile, Field(description="weights of the network")]


def _shipped(name: str) -> WeightFile:
    return WeightFile(path=SHIPPED / f"{name}.safetensors", license=LICENSE)


class FaithfulOptions(Options):
    steps: Steps = 4
    temperature: Temperature = 0.25
    weights: Weights = _shipped("faithful")


class FaithfulLowLightOptions(FaithfulOptions):
    steps: Steps = 1
    temperature: Temperature = 0
    weights: Weights = _shipped("faithful-lle")


class RealisticOptions(Options):
    weights: Weights = _shipped("realistic")


class RealisticLowLightOptions(RealisticOptions):
    weights: Weights = _shipped("realistic-lle")


def _check_order(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    if low > high:
        raise ValueError(f"the range runs downwards, from {low:g} to {high:g}")
    return bounds


Ordered = AfterValidator(_check_order)
Blur = Annotated[float, Field(ge=0.1, le=8)]
Noise = Annotated[float, Field(ge=0, le=255)]
Quality = Annotated[float, Field(ge=1, le=100)]


class CameraOptions(Options):
    blur: Annotated[
        tuple[Blur, Blur],
        Ordered,
        Field(description="standard deviation, clean pixels"),
    ] = (0.3, 2.0)
    noise: Annotated[
        tuple[Noise, Noise],
        Ordered,
        Field(description="standard deviation, of 255 gray levels"),
    ] = (0, 8)
    quality: Annotated[
        tuple[Quality, Quality],
        Ordered,
        Field(description="JPEG quality"),
    ] = (50, 95)


class PhotosOptions(Options):
    split: Literal["train", "test"] = Field("train", description="the splits share no scene")
