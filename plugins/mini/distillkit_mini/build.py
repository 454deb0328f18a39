"""Builds what the descriptors of ``plugin.py`` offer, from the options of a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from distillkit_mini.degradation import Camera
from distillkit_mini.models import (
    LOW_LIGHT,
    Faithful,
    FaithfulDct,
    MiniModel,
    Realistic,
    load_network,
)
from distillkit_mini.options import CameraOptions, FaithfulOptions, PhotosOptions, RealisticOptions
from distillkit_mini.photos import build_photos

if TYPE_CHECKING:
    from datasets import Dataset

Model = TypeVar("Model", bound=MiniModel)


def faithful(options: FaithfulOptions) -> Faithful:
    """Build the faithful super-resolution model."""
    return _load(Faithful(options.steps, options.temperature), options)


def faithful_dct(options: FaithfulOptions) -> FaithfulDct:
    """Build the faithful super-resolution model in the space of block frequencies."""
    return _load(FaithfulDct(options.steps, options.temperature), options)


def faithful_lle(options: FaithfulOptions) -> Faithful:
    """Build the faithful low-light model."""
    return _load(Faithful(options.steps, options.temperature, LOW_LIGHT), options)


def realistic(options: RealisticOptions) -> Realistic:
    """Build the realistic super-resolution model."""
    return _load(Realistic(), options)


def realistic_lle(options: RealisticOptions) -> Realistic:
    """Build the realistic low-light model."""
    return _load(Realistic(LOW_LIGHT), options)


def camera(options: CameraOptions) -> Camera:
    """Build the degradation."""
    return Camera(options.blur, options.noise, options.quality)


def photos(options: PhotosOptions) -> Dataset:
    """Build the dataset of photographs."""
    return build_photos(options.split)


def _load(model: Model, options: FaithfulOptions | RealisticOptions) -> Model:
    """Load the weights that the options name."""
    load_network(model.network, options.weights.fetch())
    return model
