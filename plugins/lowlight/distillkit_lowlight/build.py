"""From options to what the descriptors offer.

Full-size networks read published weights; tiny ones have seeded random weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from distillkit import Metric, Options
from distillkit_lowlight import metrics
from distillkit_lowlight.gsad.model import GSAD, LastStepStudent, OneStepStudent
from distillkit_lowlight.gsad.sampler import EVALUATION
from distillkit_lowlight.gsad.unet import UNet, UNetConfig
from distillkit_lowlight.gsad.weights import load_unet
from distillkit_lowlight.options import (
    AfterGtMean,
    GSADOptions,
    GSADStudentOptions,
    NetworkOptions,
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


# Every network is drawn from the seed anew, so that its weights do not depend on other networks.
@contextmanager
def _seeded(options: NetworkOptions) -> Iterator[None]:
    """Draw random weights from the options' seed.

    The global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(options.seed)
        yield


def gsad_teacher(options: GSADOptions) -> GSAD:
    """Build GSAD; it takes all steps of its data set's schedule."""
    return GSAD(_make_unet(options), EVALUATION[options.data_set])


def gsad_student(options: GSADStudentOptions) -> GSAD:
    """Build the student of ``options.generate``, with GSAD's weights."""
    network = _make_unet(options)
    if options.generate == "one-step":
        return OneStepStudent(network)
    return LastStepStudent(network, EVALUATION[options.data_set])


def _make_unet(options: GSADOptions) -> UNet:
    config = TINY_UNET if options.size == "tiny" else UNetConfig()
    with _seeded(options):
        network = UNet(config)
    files = options.files()
    if files:
        load_unet(network, files["weights"].fetch())
    return network


def retidiff_teacher(options: RetiDiffOptions) -> RetiDiffTeacher:
    """Build Reti-Diff with its decomposition network."""
    with _seeded(options):
        network = RetiDiff(_retidiff_config(options))
    files = options.files()
    if files:
        load_retidiff(network, files["weights"].fetch())
    return RetiDiffTeacher(network, _make_decomposition(options)).eval()


def prior_teacher(options: PriorOptions) -> PriorTeacher:
    """Build Reti-Diff's diffusion over priors as a score teacher."""
    restorer = retidiff_teacher(options)
    config = _retidiff_config(options)
    with _seeded(options):
        extractors = StageOneExtractors(config.n_feats, config.n_encoder_res)
        decomposition_high = Decomposition()
    files = options.files()
    if files:
        load_stage_one(extractors, files["stage_one"].fetch())
        load_decomposition(decomposition_high, files["decomposition_high"].fetch())
    return PriorTeacher(restorer.network, extractors, restorer.decomposition, decomposition_high)


def _retidiff_config(options: RetiDiffOptions) -> RetiDiffConfig:
    return TINY_RETIDIFF if options.size == "tiny" else RetiDiffConfig()


def _make_decomposition(options: RetiDiffOptions | RetinexOptions) -> Decomposition:
    with _seeded(options):
        network = Decomposition()
    files = options.files()
    if files:
        load_decomposition(network, files["decomposition"].fetch())
    return network.eval().requires_grad_(False)


def retinex_distance(options: RetinexOptions) -> RetinexDistance:
    """Build the distance of retinex maps."""
    return RetinexDistance(_make_decomposition(options))


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
