"""Super-resolution for distillkit: what this plugin offers, as light descriptors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distillkit import DegradationSpec, StudentSpec, TeacherSpec, hookimpl
from distillkit_superres.licenses import APACHE, CC_BY_NC_SA, OPENRAIL, OSEDIFF_LICENSE, S_LAB


@hookimpl
def distillkit_teachers() -> Sequence[TeacherSpec]:
    """Offer ResShift and SinSR (faithful), OSEDiff (realistic) and its base model."""
    return (
        TeacherSpec(
            name="resshift",
            summary=(
                "faithful 4x super-resolution: "
                "diffusion by residual shifting in VQ f4 latents, 4 or 15 steps"
            ),
            options="distillkit_superres.resshift.options:ResShiftOptions",
            build="distillkit_superres.resshift.build:build_resshift",
            license=S_LAB,
            capabilities=frozenset({"score", "output"}),
        ),
        TeacherSpec(
            name="sinsr",
            summary=(
                "faithful 4x super-resolution: "
                "ResShift distilled to one step; gives its output only"
            ),
            options="distillkit_superres.resshift.options:SinSROptions",
            build="distillkit_superres.resshift.build:build_sinsr",
            license=CC_BY_NC_SA,
            capabilities=frozenset({"output"}),
        ),
        TeacherSpec(
            name="osediff",
            summary=(
                "OSEDiff: one-step 4x super-resolution on Stable Diffusion 2.1-base; "
                "as a score, trained at the last timestep only"
            ),
            options="distillkit_superres.osediff.options:OSEDiffOptions",
            build="distillkit_superres.osediff.build:build_osediff",
            license=OSEDIFF_LICENSE,
            capabilities=frozenset({"score", "output"}),
        ),
        TeacherSpec(
            name="sd21-base",
            summary=(
                "Stable Diffusion 2.1-base as a score, with or without classifier-free guidance"
            ),
            options="distillkit_superres.osediff.options:SD21BaseOptions",
            build="distillkit_superres.osediff.build:build_sd21_base",
            license=OPENRAIL,
            capabilities=frozenset({"score"}),
        ),
    )


@hookimpl
def distillkit_students() -> Sequence[StudentSpec]:
    """Offer a student that starts as OSEDiff."""
    return (
        StudentSpec(
            name="osediff",
            summary="OSEDiff with its adapters merged, or a slice of it, to be trained further",
            options="distillkit_superres.osediff.options:OSEDiffStudentOptions",
            build="distillkit_superres.osediff.build:build_student",
            license=OSEDIFF_LICENSE,
        ),
    )


@hookimpl
def distillkit_degradations() -> Sequence[DegradationSpec]:
    """Offer the Real-ESRGAN degradation and bicubic reduction."""
    return (
        DegradationSpec(
            name="realesrgan",
            summary=(
                "second-order blur, resize, noise, JPEG and sinc, "
                "as OSEDiff, ResShift or PiSA-SR configure it"
            ),
            options="distillkit_superres.degradation.options:RealESRGANOptions",
            build="distillkit_superres.degradation.pipeline:RealESRGAN",
            license=APACHE,
        ),
        DegradationSpec(
            name="bicubic",
            summary="antialiased bicubic reduction only",
            options="distillkit_superres.degradation.options:BicubicOptions",
            build="distillkit_superres.degradation.pipeline:Bicubic",
            license=APACHE,
        ),
    )


@hookimpl
def distillkit_recipes() -> Path:
    return Path(__file__).parent / "recipes"
