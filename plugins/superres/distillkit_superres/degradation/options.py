"""The parameters of the Real-ESRGAN degradation.

The three published configurations of it are presets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from distillkit import Options


def _check_range(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    if not 0 < low <= high:
        raise ValueError(f"a range is [low, high] with 0 < low <= high, not {list(bounds)}")
    return bounds


def _check_range_around_one(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    if not 0 < low <= 1 <= high:
        raise ValueError(f"this range is [low, high] with 0 < low <= 1 <= high, not {list(bounds)}")
    return bounds


def _check_kernel_sizes(bounds: tuple[int, int]) -> tuple[int, int]:
    low, high = bounds
    both_odd = low % 2 == 1 and high % 2 == 1
    if not both_odd or not 3 <= low <= high:
        raise ValueError(
            "kernel sizes are two odd numbers, the smaller first and at least 3, "
            f"not {list(bounds)}"
        )
    return bounds


def _check_qualities(bounds: tuple[float, float]) -> tuple[float, float]:
    low, high = bounds
    if not 1 <= low <= high <= 100:
        raise ValueError(f"JPEG qualities are [low, high] within 1 to 100, not {list(bounds)}")
    return bounds


def _check_probabilities(values: tuple[float, ...]) -> tuple[float, ...]:
    if min(values) < 0 or abs(sum(values) - 1) > 1e-6:
        raise ValueError(f"probabilities are not negative and sum to 1, not {list(values)}")
    return values


Range = Annotated[tuple[float, float], AfterValidator(_check_range)]
RangeAroundOne = Annotated[tuple[float, float], AfterValidator(_check_range_around_one)]
KernelSizes = Annotated[tuple[int, int], AfterValidator(_check_kernel_sizes)]
QualityRange = Annotated[tuple[float, float], AfterValidator(_check_qualities)]
Probability = Annotated[float, Field(ge=0, le=1)]
ThreeProbabilities = Annotated[tuple[float, float, float], AfterValidator(_check_probabilities)]
SixProbabilities = Annotated[
    tuple[float, float, float, float, float, float],
    AfterValidator(_check_probabilities),
]


class RoundOptions(Options):
    """One round of blur, resize, noise and JPEG.

    The defaults are OSEDiff's first round, which is Real-ESRGAN's.
    """

    blur_prob: Probability = 1.0
    kernel_sizes: KernelSizes = Field(
        (7, 21),
        description="smallest and largest kernel side, pixels; every odd size is equally likely",
    )
    kernel_mix: SixProbabilities = Field(
        (0.45, 0.25, 0.12, 0.03, 0.12, 0.03),
        description="iso, aniso, generalized iso and aniso, plateau iso and aniso Gaussians",
    )
    sinc_prob: Probability = Field(
        0.1,
        description="chance of a sinc kernel in place of the mix",
    )
    sigma: Range = Field(
        (0.2, 3.0),
        description="standard deviations of the Gaussians, pixels",
    )
    beta_generalized: RangeAroundOne = Field(
        (0.5, 4.0),
        description="exponent of the generalized Gaussians: uniform in [low, 1] or in [1, high]",
    )
    beta_plateau: RangeAroundOne = Field(
        (1.0, 2.0),
        description="exponent of the plateau kernels, drawn likewise",
    )
    resize_prob: ThreeProbabilities = Field(
        (0.2, 0.7, 0.1),
        description="up, down, keep",
    )
    resize_range: RangeAroundOne = Field(
        (0.15, 1.5),
        description="down is uniform in [low, 1], up in [1, high]",
    )
    gaussian_prob: Probability = Field(
        0.5,
        description="chance of Gaussian noise; Poisson noise otherwise",
    )
    gaussian_sigma: Range = Field(
        (1.0, 30.0),
        description="standard deviation, in units of 1/255",
    )
    poisson_scale: Range = Field(
        (0.05, 3.0),
        description="factor on the Poisson noise",
    )
    gray_prob: Probability = Field(
        0.4,
        description="chance that all channels get the same noise",
    )
    jpeg_quality: QualityRange = (30.0, 95.0)


SECOND_ROUND: dict[str, Any] = {
    "blur_prob": 0.8,
    "sigma": (0.2, 1.5),
    "resize_prob": (0.3, 0.4, 0.3),
    "resize_range": (0.3, 1.2),
    "gaussian_sigma": (1.0, 25.0),
    "poisson_scale": (0.05, 2.5),
}
"""Where OSEDiff's second round differs from its first."""

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
"""Where each published configuration differs from OSEDiff's."""


class RealESRGANOptions(Options):
    """Options of ``superres/realesrgan``: a preset, and what is changed of it.

    ``preset = "pisasr"`` with ``second.blur_prob = 0.8`` changes that one number. The kernel canvas
    of the published configurations (21, or 15 in ResShift's second round) only pads kernels with
    zeros and changes no result, so it is no option here.
    """

    preset: Literal["osediff", "resshift", "pisasr"] = "osediff"
    """Whose published configuration the other keys change."""
    scale: int = Field(
        4,
        ge=1,
        description="size of the clean image divided by the size of the degraded one",
    )
    first: RoundOptions = RoundOptions.model_validate({})
    """Blur, resize, noise and JPEG of the first round."""
    second: RoundOptions = RoundOptions.model_validate(SECOND_ROUND)
    """The same of the second round."""
    second_prob: Probability = Field(
        1.0,
        description="chance that the second blur, resize and noise happen; its JPEG always does",
    )
    final_sinc_prob: Probability = 0.8
    """Chance of a sinc filter at the end."""
    final_sinc_sizes: KernelSizes = (7, 21)
    """Range of the side of its kernel, which is odd, pixels."""
    sharpen: bool = Field(
        False,
        description=(
            "sharpen the clean image (USM) before degrading it; off in all three configurations"
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def _complete_from_preset(cls, given: Any) -> Any:
        # Anything else than a table is left to pydantic to refuse.
        if not isinstance(given, Mapping):
            return given
        preset_name = str(given.get("preset", "osediff"))
        preset = PRESETS.get(preset_name, {})
        defaults = _merge_tables({"second": SECOND_ROUND}, preset)
        return _merge_tables(defaults, given)


def _merge_tables(
    base: Mapping[str, Any],
    changes: Mapping[str, Any],
) -> dict[str, Any]:
    """Change values of a table; tables inside are merged in turn."""
    merged = dict(base)
    for key, value in changes.items():
        inner = merged.get(key)
        if isinstance(value, Mapping) and isinstance(inner, Mapping):
            merged[key] = _merge_tables(inner, value)
        else:
            merged[key] = value
    return merged


class BicubicOptions(Options):
    """Options of ``superres/bicubic``."""

    scale: int = Field(
        4,
        ge=1,
        description="size of the clean image divided by the size of the degraded one",
    )
