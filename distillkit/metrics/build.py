"""Builds the engine's metrics from their options."""

from __future__ import annotations

from distillkit.errors import WeightsError
from distillkit.metrics import distortion, learned
from distillkit.metrics.base import Metric, SetMetric
from distillkit.metrics.dists import dists as make_dists
from distillkit.metrics.fid import fid as make_fid
from distillkit.metrics.niqe import niqe as make_niqe
from distillkit.metrics.no_reference import pyiqa_metric
from distillkit.metrics.options import (
    DISTS_SOURCE,
    NIQE_SOURCE,
    VGG_SOURCE,
    DistsOptions,
    FidOptions,
    LpipsOptions,
    NiqeOptions,
    PyiqaOptions,
)
from distillkit.plugins.options import Options


def psnr(options: Options) -> Metric:
    """Build PSNR in RGB."""
    return distortion.psnr()


def psnr_y(options: Options) -> Metric:
    """Build PSNR of the luma."""
    return distortion.psnr_y()


def ssim(options: Options) -> Metric:
    """Build SSIM in RGB."""
    return distortion.ssim()


def ssim_y(options: Options) -> Metric:
    """Build SSIM of the luma."""
    return distortion.ssim_y()


def stlpips_alex(options: Options) -> Metric:
    """Build shift-tolerant LPIPS with AlexNet."""
    return learned.stlpips("alex")


def stlpips_vgg(options: Options) -> Metric:
    """Build shift-tolerant LPIPS with VGG16."""
    return learned.stlpips("vgg")


def lpips(options: LpipsOptions) -> Metric:
    """Build LPIPS."""
    (trunk,) = options.weight_files()
    assert trunk.path is not None
    return learned.lpips(options.net, trunk.path)


def dists(options: DistsOptions) -> Metric:
    """Build DISTS.

    Raises:
        WeightsError: The options name no weights, or they cannot be read.
    """
    if options.weights is None:
        raise WeightsError(
            "DISTS needs its trained weights and the ImageNet weights of VGG16",
            f"set dists.weights to a file from {DISTS_SOURCE}, dists.trunk to one from "
            f"{VGG_SOURCE}",
        )
    return make_dists(options.weights, options.trunk)


def niqe(options: NiqeOptions) -> Metric:
    """Build NIQE.

    Raises:
        WeightsError: The options name no parameters, or they cannot be read.
    """
    if options.parameters is None:
        raise WeightsError(
            "NIQE needs the statistics of pristine photographs",
            f"set niqe.parameters to a file from {NIQE_SOURCE}",
        )
    return make_niqe(options.parameters)


def fid(options: FidOptions) -> SetMetric:
    """Build FID."""
    (inception,) = options.weight_files()
    assert inception.path is not None
    return make_fid(inception.path)


def musiq(options: PyiqaOptions) -> Metric:
    """Build MUSIQ."""
    return pyiqa_metric("musiq", options.model or "musiq")


def maniqa(options: PyiqaOptions) -> Metric:
    """Build MANIQA."""
    return pyiqa_metric("maniqa", options.model or "maniqa")


def clipiqa(options: PyiqaOptions) -> Metric:
    """Build CLIPIQA."""
    return pyiqa_metric("clipiqa", options.model or "clipiqa")
