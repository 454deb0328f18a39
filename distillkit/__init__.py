"""Distill a faithful and a realistic teacher into one student with a tradeoff between them.

Everything that a plugin needs is a name of this package (``from distillkit import TeacherSpec``).
Names are imported on first use, so importing the package is cheap and brings in no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from distillkit import _torchvision

_torchvision.install()

__version__ = "0.1.0"

if TYPE_CHECKING:
    from distillkit.cli.arguments import AsJson as AsJson
    from distillkit.cli.arguments import Overrides as Overrides
    from distillkit.cli.arguments import RecipeArgument as RecipeArgument
    from distillkit.cli.arguments import print_json as print_json
    from distillkit.cli.exit_codes import ExitCode as ExitCode
    from distillkit.cli.restore import FaithfulNames as FaithfulNames
    from distillkit.cli.restore import RestoreChoice as RestoreChoice
    from distillkit.cli.restore import TradeoffMap as TradeoffMap
    from distillkit.cli.restore import choose_faithful as choose_faithful
    from distillkit.cli.restore import choose_tradeoffs as choose_tradeoffs
    from distillkit.cli.restore import choose_trained as choose_trained
    from distillkit.cli.restore import restore_command as restore_command
    from distillkit.console import progress_bar as progress_bar
    from distillkit.data.batches import BatchSettings as BatchSettings
    from distillkit.data.batches import TrainingBatches as TrainingBatches
    from distillkit.data.degradation import Degradation as Degradation
    from distillkit.data.luma import full_range_luma as full_range_luma
    from distillkit.data.opening import open_source as open_source
    from distillkit.data.ops import filter2d as filter2d
    from distillkit.data.ops import jpeg as jpeg
    from distillkit.data.sources import HubDataset as HubDataset
    from distillkit.diffusion.codec import Autoencoder as Autoencoder
    from distillkit.diffusion.codec import Codec as Codec
    from distillkit.diffusion.codec import Identity as Identity
    from distillkit.diffusion.codec import PixelUnshuffle as PixelUnshuffle
    from distillkit.diffusion.model import Condition as Condition
    from distillkit.diffusion.model import DiffusionModel as DiffusionModel
    from distillkit.diffusion.model import ModelInput as ModelInput
    from distillkit.diffusion.model import OutputTeacher as OutputTeacher
    from distillkit.diffusion.model import RestorationModel as RestorationModel
    from distillkit.diffusion.process import Coefficients as Coefficients
    from distillkit.diffusion.process import ContinuousProcess as ContinuousProcess
    from distillkit.diffusion.process import (
        ContinuousResidualShifting as ContinuousResidualShifting,
    )
    from distillkit.diffusion.process import CosineVariancePreserving as CosineVariancePreserving
    from distillkit.diffusion.process import ForwardProcess as ForwardProcess
    from distillkit.diffusion.process import RectifiedFlow as RectifiedFlow
    from distillkit.diffusion.process import ResidualShifting as ResidualShifting
    from distillkit.diffusion.process import TabulatedProcess as TabulatedProcess
    from distillkit.diffusion.process import VariancePreserving as VariancePreserving
    from distillkit.environment import peak_memory as peak_memory
    from distillkit.environment import versions as versions
    from distillkit.errors import DataError as DataError
    from distillkit.errors import DistillkitError as DistillkitError
    from distillkit.errors import PluginError as PluginError
    from distillkit.errors import WeightsError as WeightsError
    from distillkit.errors import did_you_mean as did_you_mean
    from distillkit.export.diffusers_pipeline import (
        DistilledRestorationPipeline as DistilledRestorationPipeline,
    )
    from distillkit.export.web import MAX_SHOWN_PIXELS as MAX_SHOWN_PIXELS
    from distillkit.export.web import MAX_SHOWN_SIDE as MAX_SHOWN_SIDE
    from distillkit.export.web import WEB_PAGE_FOLDER as WEB_PAGE_FOLDER
    from distillkit.files.atomic import atomic_file as atomic_file
    from distillkit.files.atomic import scratch_folder as scratch_folder
    from distillkit.files.images import count_frames as count_frames
    from distillkit.files.images import picture_size as picture_size
    from distillkit.files.images import read_image as read_image
    from distillkit.files.images import write_image as write_image
    from distillkit.files.images import write_picture as write_picture
    from distillkit.files.listing import has_suffix as has_suffix
    from distillkit.files.weights import WeightFile as WeightFile
    from distillkit.files.weights import load_exactly as load_exactly
    from distillkit.files.weights import read_state_dict as read_state_dict
    from distillkit.files.weights import read_tensors as read_tensors
    from distillkit.inference.costs import describe_device as describe_device
    from distillkit.inference.faithful_map import FaithfulMap as FaithfulMap
    from distillkit.inference.files import IMAGE_FILES as IMAGE_FILES
    from distillkit.inference.files import VIDEO_SUFFIXES as VIDEO_SUFFIXES
    from distillkit.inference.files import FileKind as FileKind
    from distillkit.inference.image_types import read_picture as read_picture
    from distillkit.inference.restorer import Restorer as Restorer
    from distillkit.metrics.base import FullReference as FullReference
    from distillkit.metrics.base import Metric as Metric
    from distillkit.metrics.base import NoReference as NoReference
    from distillkit.metrics.base import SetMetric as SetMetric
    from distillkit.metrics.distortion import psnr as psnr
    from distillkit.metrics.perceptual import PerceptualDistance as PerceptualDistance
    from distillkit.plugins.descriptors import DatasetSpec as DatasetSpec
    from distillkit.plugins.descriptors import DegradationSpec as DegradationSpec
    from distillkit.plugins.descriptors import MaskSpec as MaskSpec
    from distillkit.plugins.descriptors import MetricSpec as MetricSpec
    from distillkit.plugins.descriptors import StudentSpec as StudentSpec
    from distillkit.plugins.descriptors import TeacherSpec as TeacherSpec
    from distillkit.plugins.hookspecs import API_VERSION as API_VERSION
    from distillkit.plugins.hookspecs import hookimpl as hookimpl
    from distillkit.plugins.manager import load_plugins as load_plugins
    from distillkit.plugins.options import Options as Options
    from distillkit.recipe.load import ResolvedRecipe as ResolvedRecipe
    from distillkit.recipe.load import load_recipe as load_recipe
    from distillkit.runs.prepared_stages import PreparedStage as PreparedStage
    from distillkit.runs.prepared_stages import prepare_stages as prepare_stages
    from distillkit.runs.run import run_recipe as run_recipe

# The names stand twice: type checkers read the imports above, ``__getattr__`` reads this.
_HOME = {
    "cli.arguments": ["AsJson", "Overrides", "RecipeArgument", "print_json"],
    "cli.exit_codes": ["ExitCode"],
    "cli.restore": [
        "FaithfulNames",
        "RestoreChoice",
        "TradeoffMap",
        "choose_faithful",
        "choose_tradeoffs",
        "choose_trained",
        "restore_command",
    ],
    "console": ["progress_bar"],
    "data.degradation": ["Degradation"],
    "files.atomic": ["atomic_file", "scratch_folder"],
    "files.listing": ["has_suffix"],
    "files.images": ["count_frames", "picture_size", "read_image", "write_image", "write_picture"],
    "data.luma": ["full_range_luma"],
    "data.opening": ["open_source"],
    "data.ops": ["filter2d", "jpeg"],
    "data.batches": ["BatchSettings", "TrainingBatches"],
    "data.sources": ["HubDataset"],
    "diffusion.codec": ["Autoencoder", "Codec", "Identity", "PixelUnshuffle"],
    "diffusion.model": [
        "Condition",
        "DiffusionModel",
        "ModelInput",
        "OutputTeacher",
        "RestorationModel",
    ],
    "diffusion.process": [
        "Coefficients",
        "ContinuousProcess",
        "ContinuousResidualShifting",
        "CosineVariancePreserving",
        "ForwardProcess",
        "RectifiedFlow",
        "ResidualShifting",
        "TabulatedProcess",
        "VariancePreserving",
    ],
    "environment": ["peak_memory", "versions"],
    "errors": ["DataError", "DistillkitError", "PluginError", "WeightsError", "did_you_mean"],
    "metrics.base": ["FullReference", "Metric", "NoReference", "SetMetric"],
    "metrics.distortion": ["psnr"],
    "metrics.perceptual": ["PerceptualDistance"],
    "plugins.hookspecs": ["API_VERSION", "hookimpl"],
    "plugins.manager": ["load_plugins"],
    "plugins.options": ["Options"],
    "plugins.descriptors": [
        "DatasetSpec",
        "DegradationSpec",
        "MaskSpec",
        "MetricSpec",
        "StudentSpec",
        "TeacherSpec",
    ],
    "inference.costs": ["describe_device"],
    "inference.faithful_map": ["FaithfulMap"],
    "inference.files": ["IMAGE_FILES", "VIDEO_SUFFIXES", "FileKind"],
    "inference.image_types": ["read_picture"],
    "inference.restorer": ["Restorer"],
    "export.diffusers_pipeline": ["DistilledRestorationPipeline"],
    "export.web": ["MAX_SHOWN_PIXELS", "MAX_SHOWN_SIDE", "WEB_PAGE_FOLDER"],
    "recipe.load": ["ResolvedRecipe", "load_recipe"],
    "runs.prepared_stages": ["PreparedStage", "prepare_stages"],
    "runs.run": ["run_recipe"],
    "files.weights": ["WeightFile", "load_exactly", "read_state_dict", "read_tensors"],
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [*_MODULE_OF, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'distillkit' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"distillkit.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
