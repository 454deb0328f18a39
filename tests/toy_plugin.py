"""A plugin of the toys: a full run of the engine takes a second with it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

import distillkit
from distillkit import DatasetSpec, DegradationSpec, StudentSpec, TeacherSpec, hookimpl


class Options(distillkit.Options):
    seed: int = 0
    space: Literal["pixels", "unshuffle"] = "pixels"
    scale: int = 2
    captions: bool = False
    blocks: int = 0


class Photos(distillkit.Options):
    folder: Path
    split: str = "train"


def model(options: Options):
    from toy_models import CaptionedToy, ToyModel, unshuffled

    if options.captions:
        return CaptionedToy(seed=options.seed, scale=options.scale)
    build = {"pixels": ToyModel, "unshuffle": unshuffled}[options.space]
    return build(seed=options.seed, scale=options.scale, blocks=options.blocks)


class Restorer:
    """A teacher with output only."""

    scale = 2
    nfe = 1
    size_multiple = 1

    def restore(self, inputs, generator: torch.Generator | None = None) -> Tensor:
        return F.interpolate(inputs.lq, scale_factor=2, mode="bilinear")


class Halve:
    """Area averaging and a little noise.

    ``calls`` counts batches, and a test may replace ``on_call`` to act at one of them. The first
    call does not count: it is the check that a run makes of what it has built.
    """

    scale = 2
    calls = 0
    is_checked = False

    @staticmethod
    def on_call(n: int) -> None: ...

    def __call__(self, gt: Tensor, generator: torch.Generator) -> Tensor:
        if self.is_checked:
            Halve.calls += 1
            Halve.on_call(Halve.calls)
        self.is_checked = True
        small = F.avg_pool2d(gt, 2)
        noise = torch.randn(small.shape, generator=generator)
        lq = (small + 0.05 * noise).clamp(-1, 1)
        return ((lq + 1) * 127.5).round() / 127.5 - 1


def restorer(options: Options) -> Restorer:
    return Restorer()


def halve(options: Options) -> Halve:
    return Halve()


def enlarger(options: Options):
    from toy_models import Enlarger

    return Enlarger(seed=options.seed, scale=options.scale)


def photos(options: Photos):
    import datasets

    folder = options.folder / options.split
    files = sorted(str(path) for path in folder.glob("*.png"))
    table = datasets.Dataset.from_dict({"image": files})
    return table.cast_column("image", datasets.Image(decode=False))


@hookimpl
def distillkit_teachers():
    score = frozenset({"score", "output"})
    return [
        TeacherSpec(
            name="faithful",
            summary="toy",
            options="toy_plugin:Options",
            build="toy_plugin:model",
            capabilities=score,
        ),
        TeacherSpec(
            name="realistic",
            summary="toy",
            options="toy_plugin:Options",
            build="toy_plugin:model",
            capabilities=score,
        ),
        TeacherSpec(
            name="restorer",
            summary="toy",
            options="toy_plugin:Options",
            build="toy_plugin:restorer",
            capabilities=frozenset({"output"}),
        ),
    ]


@hookimpl
def distillkit_students():
    return [
        StudentSpec(
            name="student", summary="toy", options="toy_plugin:Options", build="toy_plugin:model"
        ),
        StudentSpec(
            name="enlarger",
            summary="toy",
            options="toy_plugin:Options",
            build="toy_plugin:enlarger",
            capabilities=frozenset({"output"}),
        ),
    ]


@hookimpl
def distillkit_degradations():
    return [
        DegradationSpec(
            name="halve", summary="toy", options="toy_plugin:Options", build="toy_plugin:halve"
        )
    ]


@hookimpl
def distillkit_datasets():
    return [
        DatasetSpec(
            name="photos", summary="toy", options="toy_plugin:Photos", build="toy_plugin:photos"
        )
    ]
