"""The parameters of the Real-ESRGAN degradation, and the three published configurations of it as presets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from distillkit import Options


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if not 0 < value[0] <= value[1]:
        raise ValueError(f"a range is [low, high] with 0 < low <= high, not {list(value)}")
    return value


def _around_one(value: tuple[float, float]) -> tuple[float, float]:
    if not 0 < value[0] <= 1 <= value[1]:
        raise ValueError(f"this range is [low, high] with 0 < low <= 1 <= high, not {list(value)}")
    return value


def _odd(value: tuple[int, int]) -> tuple[int, int]:
    if value[0] % 2 == 0 or value[1] % 2 == 0 or not 3 <= value[0] <= value[1]:
        raise ValueError(
            f"kernel sizes are two odd numbers, the smaller first and at least 3, not {list(value)}"
        )
    return value


def _quality(value: tuple[float, float]) -> tuple[float, float]:
    if not 1 <= value[0] <= value[1] <= 100:
        raise ValueError(f"JPEG qualities are [low, high] within 1 to 100, not {list(value)}")
    return value


def _shares(value: tuple[float, ...]) -> tuple[float, ...]:
    if min(value) < 0 or abs(sum(value) - 1) > 1e-6:
        raise ValueError(f"probabilities are not negative and sum to 1, not {list(value)}")
    return value


Range = Annotated[tuple[float, float], AfterValidator(_ordered)]
RangeAroundOne = Annotated[tuple[float, float], AfterValidator(_around_one)]
OddRange = Annotated[tuple[int, int], AfterValidator(_odd)]
QualityRange = Annotated[tuple[float, float], AfterValidator(_quality)]
Probability = Annotated[float, Field(ge=0, le=1)]


class Stage(Options):
    """One round of blur, resize, noise and JPEG. The defaults are OSEDiff's first round, which is Real-ESRGAN's."""

    blur_prob: Probability = 1.0
    kernel_sizes: OddRange = Field(
        (7, 21),
        description="smallest and largest kernel side, pixels; every odd size is equally likely",
    )
    kernel_mix: Annotated[
        tuple[float, float, float, float, float, float], AfterValidator(_shares)
    ] = Field(
        (0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
        description="iso, aniso, generalised iso and aniso, plateau iso and aniso Gaussians",
    )
    sinc_prob: Probability = Field(0.1, description="chance of a sinc kernel in place of the mix")
    sigma: Range = Field((0.2, 3.0), description="standard deviations of the Gaussians, pixels")
    beta_generalised: RangeAroundOne = Field(
        (0.5, 4.0),
        description="exponent of the generalised Gaussians: uniform in [low, 1] or in [1, high]",
    )
    beta_plateau: RangeAroundOne = Field(
        (1.0, 2.0), description="exponent of the plateau kernels, drawn likewise"
    )
    resize_prob: Annotated[tuple[float, float, float], AfterValidator(_shares)] = Field(
        (0.2, 0.7, 0.1), description="up, down, keep"
    )
    resize_range: RangeAroundOne = Field(
        (0.15, 1.5), description="down is uniform in [low, 1], up in [1, high]"
    )
    gaussian_prob: Probability = Field(
        0.5, description="chance of Gaussian noise; Poisson noise otherwise"
    )
    gaussian_sigma: Range = Field((1.0, 30.0), description="standard deviation, in units of 1/255")
    poisson_scale: Range = Field((0.05, 3.0), description="factor on the Poisson noise")
    gray_prob: Probability = Field(0.4, description="chance that all channels get the same noise")
    jpeg_quality: QualityRange = (30.0, 95.0)


_SECOND: dict[str, Any] = {
    "blur_prob": 0.8,
    "sigma": (0.2, 1.5),
    "resize_prob": (0.3, 0.4, 0.3),
    "resize_range": (0.3, 1.2),
    "gaussian_sigma": (1.0, 25.0),
    "poisson_scale": (0.05, 2.5),
}

# What each configuration has otherwise than OSEDiff's.
PRESETS: dict[str, dict[str, Any]] = {
    "osediff": {},
    "resshift": {
        "first": {"kernel_sizes": (3, 19)},
        "second": {"kernel_sizes": (3, 13)},
        "second_prob": 0.5,
        "final_sinc_sizes": (3, 13),
    },
    "pisasr": {
        "first": {
            "resize_range": (0.3, 1.5),
            "gaussian_sigma": (1.0, 15.0),
            "poisson_scale": (0.05, 2.0),
            "jpeg_quality": (60.0, 95.0),
        },
        "second": {
            "blur_prob": 0.5,
            "resize_range": (0.6, 1.2),
            "gaussian_sigma": (1.0, 12.0),
            "poisson_scale": (0.05, 1.0),
            "jpeg_quality": (60.0, 100.0),
        },
    },
}


class RealESRGANConfig(Options):
    """Options of ``superres/realesrgan``: a preset, and whatever is given beside it in place of the preset's values.

    ``preset = "pisasr"`` with ``second.blur_prob = 0.8`` changes that one number. The kernel canvas of the published configurations
    (21, or 15 in ResShift's second round) only pads kernels with zeros and changes no result, so it is no option here.
    """

    preset: Literal["osediff", "resshift", "pisasr"] = "osediff"
    scale: int = Field(
        4, ge=1, description="size of the clean image divided by the size of the degraded one"
    )
    first: Stage = Stage.model_validate({})
    second: Stage = Stage.model_validate(_SECOND)
    second_prob: Probability = Field(
        1.0,
        description="chance that the second blur, resize and noise happen; its JPEG always does",
    )
    final_sinc_prob: Probability = 0.8
    final_sinc_sizes: OddRange = (7, 21)
    sharpen: bool = Field(
        False,
        description="sharpen the clean image (USM) before degrading it; off in all three configurations",
    )

    @model_validator(mode="before")
    @classmethod
    def _over_preset(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            return given
        preset = PRESETS.get(str(given.get("preset", "osediff")), {})
        return _merged(_merged({"second": _SECOND}, preset), given)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = _merged(result[key], value) if nested else value
    return result


class BicubicConfig(Options):
    """Options of ``superres/bicubic``."""

    scale: int = Field(
        4, ge=1, description="size of the clean image divided by the size of the degraded one"
    )
