"""What this folder offers to recipes."""

from __future__ import annotations

from distillkit import DegradationSpec
from distillkit_superres.degradation.options import BicubicConfig, RealESRGANConfig

DEGRADATIONS = [
    DegradationSpec(
        name="realesrgan",
        summary="second-order blur, resize, noise, JPEG and sinc, as OSEDiff, ResShift or PiSA-SR configure it",
        config=RealESRGANConfig,
        build="distillkit_superres.degradation.pipeline:RealESRGAN",
        license="Apache-2.0",
    ),
    DegradationSpec(
        name="bicubic",
        summary="antialiased bicubic reduction only",
        config=BicubicConfig,
        build="distillkit_superres.degradation.pipeline:Bicubic",
        license="Apache-2.0",
    ),
]
