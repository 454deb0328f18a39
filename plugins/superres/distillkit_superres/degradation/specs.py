"""What this folder offers to recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distillkit import DegradationSpec
from distillkit_superres.degradation.settings import BicubicConfig, RealESRGANConfig

if TYPE_CHECKING:
    from distillkit_superres.degradation.pipeline import Bicubic, RealESRGAN


def _realesrgan(config: RealESRGANConfig) -> RealESRGAN:
    from distillkit_superres.degradation.pipeline import RealESRGAN

    return RealESRGAN(config)


def _bicubic(config: BicubicConfig) -> Bicubic:
    from distillkit_superres.degradation.pipeline import Bicubic

    return Bicubic(config)


DEGRADATIONS = [
    DegradationSpec(
        name="realesrgan",
        summary="second-order blur, resize, noise, JPEG and sinc, as OSEDiff, ResShift or PiSA-SR configure it",
        config=RealESRGANConfig,
        build=_realesrgan,
        license="Apache-2.0",
    ),
    DegradationSpec(
        name="bicubic",
        summary="antialiased bicubic reduction only",
        config=BicubicConfig,
        build=_bicubic,
        license="Apache-2.0",
    ),
]
