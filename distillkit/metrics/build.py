"""Builds the engine's metrics from their options."""

from __future__ import annotations

from distillkit.errors import WeightsError
from distillkit.metrics import base, learned
from distillkit.metrics import dists as _dists
from distillkit.metrics import fid as _fid
from distillkit.metrics import niqe as _niqe
from distillkit.metrics.base import Metric, SetMetric
from distillkit.metrics.builtin import (
    BlindOptions,
    DistsOptions,
    FidOptions,
    LpipsOptions,
    NiqeOptions,
)
from distillkit.metrics.no_reference import blind
from distillkit.plugins.options import Options


def psnr(options: Options) -> Metric:
    """Build PSNR in RGB."""
    return base.psnr()


def psnr_y(options: Options) -> Metric:
    """Build PSNR of the luma."""
    return base.psnr_y()


def ssim(options: Options) -> Metric:
    """Build SSIM in RGB."""
    return base.ssim()


def ssim_y(options: Options) -> Metric:
    """Build SSIM of the luma."""
    return base.ssim_y()


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
        WeightsError: the options name no weights, or they cannot be read.
    """
    if options.weights is None:
        raise WeightsError(
            "DISTS needs its trained weights: set `weights`, "
            "and `trunk` to the ImageNet weights of VGG16"
        )
    return _dists.dists(options.weights, options.trunk)


def niqe(options: NiqeOptions) -> Metric:
    """Build NIQE.

    Raises:
        WeightsError: the options name no parameters, or they cannot be read.
    """
    if options.parameters is None:
        raise WeightsError(
            "NIQE needs the statistics of pristine photographs: "
            "set `parameters` to a niqe_pris_params.npz"
        )
    return _niqe.niqe(options.parameters)


def fid(options: FidOptions) -> SetMetric:
    """Build FID."""
    (inception,) = options.weight_files()
    assert inception.path is not None
    return _fid.fid(inception.path)


def musiq(options: BlindOptions) -> Metric:
    """Build MUSIQ."""
    return blind("musiq", options.model or "musiq")


def maniqa(options: BlindOptions) -> Metric:
    """Build MANIQA."""
    return blind("maniqa", options.model or "maniqa")


def clipiqa(options: BlindOptions) -> Metric:
    """Build CLIPIQA."""
    return blind("clipiqa", options.model or "clipiqa")
