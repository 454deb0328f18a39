"""What the plugin offers, as light descriptors: torch and the networks are imported only when one is built."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from distillkit import DatasetSpec, DegradationSpec, StudentSpec, TeacherSpec, WeightFile, hookimpl

if TYPE_CHECKING:
    from distillkit_mini.models import MiniModel

LICENSE = "Apache-2.0"
SHIPPED = Path(__file__).parent / "weights"


class Options(BaseModel):
    """Options of a mini thing: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FaithfulOptions(Options):
    steps: Annotated[int, Field(ge=1, le=100)] = Field(
        4, description="network passes of one restoration"
    )
    temperature: Annotated[float, Field(ge=0, le=1)] = Field(
        0.25, description="starting noise, as a share of the process's own"
    )
    weights: Path = Field(SHIPPED / "faithful.safetensors", description="weights of the network")


class FaithfulLowLightOptions(FaithfulOptions):
    steps: Annotated[int, Field(ge=1, le=100)] = Field(
        1, description="network passes of one restoration"
    )
    temperature: Annotated[float, Field(ge=0, le=1)] = Field(
        0, description="starting noise, as a share of the process's own"
    )
    weights: Path = Field(
        SHIPPED / "faithful-lle.safetensors", description="weights of the network"
    )


class RealisticOptions(Options):
    weights: Path = Field(
        SHIPPED / "realistic.safetensors",
        description="weights of the network; a student starts from them",
    )


class RealisticLowLightOptions(RealisticOptions):
    weights: Path = Field(
        SHIPPED / "realistic-lle.safetensors",
        description="weights of the network; a student starts from them",
    )


def _upwards(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError(f"the range runs downwards, from {ends[0]:g} to {ends[1]:g}")
    return ends


Blur = Annotated[float, Field(ge=0.1, le=8)]
Noise = Annotated[float, Field(ge=0, le=255)]
Quality = Annotated[float, Field(ge=1, le=100)]


class CameraOptions(Options):
    blur: Annotated[tuple[Blur, Blur], AfterValidator(_upwards)] = Field(
        (0.3, 2.0), description="standard deviation, clean pixels"
    )
    noise: Annotated[tuple[Noise, Noise], AfterValidator(_upwards)] = Field(
        (0, 8), description="standard deviation, of 255 gray levels"
    )
    quality: Annotated[tuple[Quality, Quality], AfterValidator(_upwards)] = Field(
        (50, 95), description="JPEG quality"
    )


class PhotosOptions(Options):
    split: Literal["train", "test"] = Field("train", description="the splits share no scene")


def _files(options: FaithfulOptions | RealisticOptions) -> tuple[WeightFile, ...]:
    return (WeightFile(path=options.weights, license=LICENSE),)


def _loaded(model: MiniModel, options: FaithfulOptions | RealisticOptions) -> MiniModel:
    from distillkit_mini.models import load_network

    load_network(model.network, options.weights)
    return model


def _faithful(options: FaithfulOptions) -> MiniModel:
    from distillkit_mini.models import Faithful

    return _loaded(Faithful(options.steps, options.temperature), options)


def _faithful_dct(options: FaithfulOptions) -> MiniModel:
    from distillkit_mini.models import FaithfulDct

    return _loaded(FaithfulDct(options.steps, options.temperature), options)


def _faithful_lle(options: FaithfulOptions) -> MiniModel:
    from distillkit_mini.models import LOW_LIGHT, Faithful

    return _loaded(Faithful(options.steps, options.temperature, LOW_LIGHT), options)


def _realistic(options: RealisticOptions) -> MiniModel:
    from distillkit_mini.models import Realistic

    return _loaded(Realistic(), options)


def _realistic_lle(options: RealisticOptions) -> MiniModel:
    from distillkit_mini.models import LOW_LIGHT, Realistic

    return _loaded(Realistic(LOW_LIGHT), options)


def _camera(options: CameraOptions) -> Any:
    from distillkit_mini.degradation import Camera

    return Camera(options.blur, options.noise, options.quality)


def _photos(options: PhotosOptions) -> Any:
    from distillkit_mini.photos import build_photos

    return build_photos(options.split)


@hookimpl
def distillkit_teachers() -> Sequence[TeacherSpec]:
    return [
        TeacherSpec(
            name="faithful",
            summary="faithful 4x super-resolution: residual shifting, 4 steps",
            config=FaithfulOptions,
            build=_faithful,
            license=LICENSE,
            weights=_files,
            capabilities=frozenset({"score", "output"}),
        ),
        TeacherSpec(
            name="faithful-dct",
            summary="the same weights in another latent space, the frequencies of 4x4 blocks",
            config=FaithfulOptions,
            build=_faithful_dct,
            license=LICENSE,
            weights=_files,
            capabilities=frozenset({"score", "output"}),
        ),
        TeacherSpec(
            name="realistic",
            summary="realistic 4x super-resolution: one step, trained with perceptual and adversarial losses",
            config=RealisticOptions,
            build=_realistic,
            license=LICENSE,
            weights=_files,
            capabilities=frozenset({"score", "output"}),
        ),
        TeacherSpec(
            name="faithful-lle",
            summary="faithful low-light enhancement: residual shifting from the brightened input, one step",
            config=FaithfulLowLightOptions,
            build=_faithful_lle,
            license=LICENSE,
            weights=_files,
            capabilities=frozenset({"score", "output"}),
        ),
        TeacherSpec(
            name="realistic-lle",
            summary="realistic low-light enhancement: one step, trained with perceptual and adversarial losses",
            config=RealisticLowLightOptions,
            build=_realistic_lle,
            license=LICENSE,
            weights=_files,
            capabilities=frozenset({"score", "output"}),
        ),
    ]


@hookimpl
def distillkit_students() -> Sequence[StudentSpec]:
    return [
        StudentSpec(
            name="student",
            summary="one-step 4x super-resolution, the realistic teacher's network with weights of its own",
            config=RealisticOptions,
            build=_realistic,
            license=LICENSE,
            weights=_files,
        ),
        StudentSpec(
            name="student-lle",
            summary="one-step low-light enhancement, the realistic teacher's network with weights of its own",
            config=RealisticLowLightOptions,
            build=_realistic_lle,
            license=LICENSE,
            weights=_files,
        ),
    ]


@hookimpl
def distillkit_degradations() -> Sequence[DegradationSpec]:
    return [
        DegradationSpec(
            name="camera",
            summary="blur, 4x down, noise, JPEG, each image with draws of its own",
            config=CameraOptions,
            build=_camera,
            license=LICENSE,
        )
    ]


@hookimpl
def distillkit_datasets() -> Sequence[DatasetSpec]:
    return [
        DatasetSpec(
            name="photos",
            summary="real photographs that scikit-image, scikit-learn and matplotlib carry",
            config=PhotosOptions,
            build=_photos,
            license="CC0-1.0 AND CC-BY-2.0",
        )
    ]
