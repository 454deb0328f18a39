"""Makes what the descriptors offer. Full-size networks read published weights; tiny ones have seeded random weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from distillkit import Metric, Options
from distillkit_lowlight import metrics
from distillkit_lowlight.degradation import LowLight
from distillkit_lowlight.gsad.model import GSAD, LastStepStudent, OneStepStudent
from distillkit_lowlight.gsad.sampler import EVALUATION
from distillkit_lowlight.gsad.unet import UNet, UNetConfig
from distillkit_lowlight.gsad.weights import load_unet
from distillkit_lowlight.options import (
    AfterGtMean,
    DarkOptions,
    GSADOptions,
    GSADStudentOptions,
    Network,
    PriorOptions,
    RetiDiffOptions,
    RetinexOptions,
)
from distillkit_lowlight.retidiff.config import RetiDiffConfig
from distillkit_lowlight.retidiff.decomposition import Decomposition
from distillkit_lowlight.retidiff.networks import RetiDiff, StageOneExtractors
from distillkit_lowlight.retidiff.prior_score import PriorTeacher
from distillkit_lowlight.retidiff.teacher import RetiDiffTeacher, RetinexDistance
from distillkit_lowlight.retidiff.weights import load_decomposition, load_retidiff, load_stage_one

TINY_UNET = UNetConfig(
    inner_channel=16,
    norm_groups=8,
    channel_mults=(1, 2, 2),
    attn_res=(8,),
    res_blocks=1,
    image_size=32,
)
TINY_RETIDIFF = RetiDiffConfig(
    n_feats=8,
    n_encoder_res=1,
    dim=16,
    num_blocks=(1, 1, 1, 1),
    num_refinement_blocks=1,
)


@contextmanager
def _seeded(options: Network) -> Iterator[None]:
    """Random weights made inside are those of ``options.seed``; the generator outside is not moved."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(options.seed)
        yield


def _unet(options: GSADOptions) -> UNet:
    with _seeded(options):
        network = UNet(TINY_UNET if options.size == "tiny" else UNetConfig())
    if files := options.files():
        load_unet(network, files["weights"])
    return network


def gsad_teacher(options: GSADOptions) -> GSAD:
    """GSAD, sampling all steps of its data set's schedule."""
    return GSAD(_unet(options), EVALUATION[options.data_set])


def gsad_student(options: GSADStudentOptions) -> GSAD:
    """The student that ``options.generate`` names, with GSAD's weights."""
    if options.generate == "one-step":
        return OneStepStudent(_unet(options))
    return LastStepStudent(_unet(options), EVALUATION[options.data_set])


def _decomposition(options: RetiDiffOptions | RetinexOptions) -> Decomposition:
    with _seeded(options):
        network = Decomposition()
    if files := options.files():
        load_decomposition(network, files["decomposition"])
    return network.eval().requires_grad_(False)


def retidiff_teacher(options: RetiDiffOptions) -> RetiDiffTeacher:
    """Reti-Diff with its decomposition network."""
    with _seeded(options):
        network = RetiDiff(TINY_RETIDIFF if options.size == "tiny" else RetiDiffConfig())
    if files := options.files():
        load_retidiff(network, files["weights"])
    return RetiDiffTeacher(network, _decomposition(options)).eval()


def prior_teacher(options: PriorOptions) -> PriorTeacher:
    """Reti-Diff's diffusion over priors as a score teacher."""
    restorer = retidiff_teacher(options)
    config = TINY_RETIDIFF if options.size == "tiny" else RetiDiffConfig()
    with _seeded(options):
        extractors = StageOneExtractors(config.n_feats, config.n_encoder_res)
        bright = Decomposition()
    if files := options.files():
        load_stage_one(extractors, files["stage_one"])
        load_decomposition(bright, files["decomposition_high"])
    return PriorTeacher(restorer.network, extractors, restorer.decomposition, bright)


def retinex_distance(options: RetinexOptions) -> RetinexDistance:
    """The distance of retinex maps."""
    return RetinexDistance(_decomposition(options))


def dark(options: DarkOptions) -> LowLight:
    """Build the degradation of photographs in too little light."""
    return LowLight(**options.model_dump())


def psnr_gtmean(options: Options) -> Metric:
    """Build GSAD's PSNR."""
    return metrics.psnr_gtmean()


def ssim_uniform(options: Options) -> Metric:
    """Build the SSIM of GSAD's code, without its GT-mean."""
    return metrics.ssim_uniform()


def ssim_uniform_gtmean(options: Options) -> Metric:
    """Build GSAD's SSIM."""
    return metrics.ssim_uniform_gtmean()


def engine_metric_after_gt_mean(options: AfterGtMean) -> Metric:
    """Build a metric of the engine after GT-mean."""
    spec, engine_options = options.engine_metric()
    name = f"{options.base}-gtmean"
    if options.bgr:
        name += "-bgr"
    return metrics.after_gt_mean(spec.create(engine_options), name, bgr=options.bgr)
