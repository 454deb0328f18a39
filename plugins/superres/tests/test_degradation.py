"""The Real-ESRGAN degradation.

Its operations are compared with numbers of the published code, its draws with their options.
"""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from distillkit import Degradation, DistillkitError, filter2d, jpeg
from distillkit_superres import distillkit_degradations
from distillkit_superres.degradation.draws import Draws, GaussianBlur, Noise, Round, SincBlur, draw
from distillkit_superres.degradation.kernels import (
    KERNEL_SHAPES,
    fit_kernel,
    gaussian_kernel,
    pad_kernel,
    sinc_kernel,
)
from distillkit_superres.degradation.operations import add_noise, resize, sharpen
from distillkit_superres.degradation.options import PRESETS, BicubicOptions, RealESRGANOptions
from distillkit_superres.degradation.pipeline import degrade

SPECS = {spec.name: spec for spec in distillkit_degradations()}


def close(actual, expected, atol):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def photo_like(batch=2, height=96, width=80):
    """Smooth random images with edges, (B, 3, H, W) in [-1, 1]."""
    coarse = torch.rand(batch, 3, height // 8, width // 8, generator=seeded(1))
    smooth = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    return torch.where(smooth > 0.5, smooth + 0.2, smooth - 0.2).clamp(0, 1) * 2 - 1


# operations


@pytest.mark.golden("realesrgan_degradation*")
def test_kernels(case):
    for i, k in enumerate(case.info["kernels"]):
        kernel = gaussian_kernel(
            k["kind"],
            k["size"],
            k["sig_x"],
            k["sig_y"],
            k["theta"],
            k["beta"],
        )
        close(kernel.float(), case[f"kernel{i}"], 1e-6)
    for i, k in enumerate(case.info["sinc"]):
        kernel = sinc_kernel(k["size"], k["cutoff"])
        if k["pad_to"]:
            kernel = pad_kernel(kernel, k["pad_to"])
        close(kernel.float(), case[f"sinc{i}"], 1e-6)


@pytest.mark.golden("realesrgan_degradation*")
def test_image_operations(case):
    for i in range(len(case.info["images"])):
        image = case[f"img{i}"]
        expected = case.tensors_under(f"img{i}.")
        close(sharpen(image), expected["usm"], 1e-5)
        close(sharpen(image, radius=21, weight=0.7, threshold=5), expected["usm_r21"], 1e-5)
        for mode in ("area", "bilinear", "bicubic"):
            wanted = expected[f"resize_{mode}"]
            close(resize(image, tuple(wanted.shape[2:]), mode), wanted, 1e-5)
        close(resize(image, 0.37, "bicubic"), expected["resize_sf_bicubic"], 1e-5)


def test_a_kernel_wider_than_the_image_is_cut_to_it():
    kernel = gaussian_kernel("iso", 21, 2.0, 2.0, 0.0, 1.0)
    assert fit_kernel(kernel, 11) is kernel
    cut = fit_kernel(kernel, 4)
    assert cut.shape == (7, 7)
    close(cut, gaussian_kernel("iso", 7, 2.0, 2.0, 0.0, 1.0), 1e-12)
    assert fit_kernel(kernel, 1).tolist() == [[1.0]]


def test_noise_has_the_strength_and_color_it_says():
    image = torch.full((1, 3, 200, 200), 0.5)
    for gray in (False, True):
        added = add_noise(image, Noise("gaussian", 20.0, gray), seeded()) - image
        assert added.std().item() * 255 == pytest.approx(20, rel=0.02)
        assert added.mean().abs() * 255 < 0.3
        assert added[:, 0].equal(added[:, 1]) == gray
    # 256 distinct values, so that Poisson counts go to 256.
    ramp = torch.linspace(0, 1, 256).repeat(200, 1).expand(1, 3, 200, 256)
    for gray in (False, True):
        added = (add_noise(ramp, Noise("poisson", 0.5, gray), seeded()) - ramp)[..., 64:192]
        expected = 0.5 * (ramp[..., 64:192] / 256).sqrt()
        assert added.std().item() == pytest.approx(expected.square().mean().sqrt().item(), rel=0.03)
        assert added[:, 0].equal(added[:, 1]) == gray


# draws


@pytest.fixture(scope="module", params=PRESETS)
def drawn(request):
    config, g = RealESRGANOptions(preset=request.param), seeded(7)
    return config, [draw(config, g) for _ in range(4000)]


def share(values):
    values = list(values)
    return sum(values) / len(values)


def assert_share(values, probability):
    values = [bool(v) for v in values]
    assert abs(share(values) - probability) <= 4 * math.sqrt(
        probability * (1 - probability) / len(values)
    )


def assert_uniform(values, low, high):
    """Range, mean, spread and quartiles of a uniform variable, each within four standard errors."""
    values = torch.tensor(list(values), dtype=torch.float64)
    width, n = high - low, len(values)
    assert n > 50 and values.min() >= low and values.max() <= high
    assert values.min() < low + 15 * width / n and values.max() > high - 15 * width / n
    assert abs(values.mean() - (low + high) / 2) <= 4 * width / math.sqrt(12 * n)
    assert abs(values.var() - width**2 / 12) <= 4 * width**2 * math.sqrt((1 / 80 - 1 / 144) / n)
    for q in (0.25, 0.5, 0.75):
        assert abs((values < low + q * width).double().mean() - q) <= 4 * math.sqrt(q * (1 - q) / n)


def assert_round(stage, rounds):
    resized = {
        "up": [r for r in rounds if r.factor > 1],
        "down": [r for r in rounds if r.factor < 1],
    }
    assert_share((r.factor > 1 for r in rounds), stage.resize_prob[0])
    assert_share((r.factor < 1 for r in rounds), stage.resize_prob[1])
    assert_uniform((r.factor for r in resized["up"]), 1, stage.resize_range[1])
    assert_uniform((r.factor for r in resized["down"]), stage.resize_range[0], 1)
    for mode in ("area", "bilinear", "bicubic"):
        assert_share((r.mode == mode for r in rounds), 1 / 3)
    assert_share((r.noise.kind == "gaussian" for r in rounds), stage.gaussian_prob)
    assert_share((r.noise.gray for r in rounds), stage.gray_prob)
    assert_uniform(
        (r.noise.strength for r in rounds if r.noise.kind == "gaussian"), *stage.gaussian_sigma
    )
    assert_uniform(
        (r.noise.strength for r in rounds if r.noise.kind == "poisson"), *stage.poisson_scale
    )


def assert_blurs(stage, blurs):
    low, high = stage.kernel_sizes
    sizes = Counter(b.size for b in blurs)
    assert set(sizes) == set(range(low, high + 1, 2))
    for size in sizes:
        assert_share((b.size == size for b in blurs), 1 / len(sizes))
    assert_share((isinstance(b, SincBlur) for b in blurs), stage.sinc_prob)
    sincs = [b for b in blurs if isinstance(b, SincBlur)]
    assert_cutoffs([b.cutoff for b in sincs if b.size < 13], math.pi / 3)
    assert_cutoffs([b.cutoff for b in sincs if b.size >= 13], math.pi / 5)
    gaussians = [b for b in blurs if isinstance(b, GaussianBlur)]
    for shape, probability in zip(KERNEL_SHAPES, stage.kernel_mix, strict=True):
        assert_share((b.shape == shape for b in gaussians), probability)
    assert_uniform((b.sigma_x for b in gaussians), *stage.sigma)
    assert_uniform((b.sigma_y for b in gaussians), *stage.sigma)
    assert_uniform((b.theta for b in gaussians), -math.pi, math.pi)
    for kind, (low, high) in (
        ("generalized", stage.beta_generalized),
        ("plateau", stage.beta_plateau),
    ):
        betas = [b.beta for b in gaussians if b.shape.startswith(kind)]
        assert_share((b <= 1 for b in betas), 0.5)
        assert_uniform((b for b in betas if b > 1), 1, high)
        assert min(betas) >= low


def assert_cutoffs(cutoffs, lowest):
    """Range and mean of a uniform variable; there may be few values, or none."""
    if not cutoffs:
        return
    assert all(lowest <= cutoff <= math.pi for cutoff in cutoffs)
    standard_error = (math.pi - lowest) / math.sqrt(12 * len(cutoffs))
    assert abs(share(cutoffs) - (lowest + math.pi) / 2) <= 4 * standard_error


def test_draws_follow_their_options(drawn):
    config, draws = drawn
    seconds = [d.second for d in draws if d.second]
    assert_share((d.second for d in draws), config.second_prob)
    for stage, rounds in ((config.first, [d.first for d in draws]), (config.second, seconds)):
        assert_share((r.blur for r in rounds), stage.blur_prob)
        assert_round(stage, rounds)
        assert_blurs(stage, [r.blur for r in rounds if r.blur])
    assert_uniform((d.first_quality for d in draws), *config.first.jpeg_quality)
    assert_uniform((d.second_quality for d in draws), *config.second.jpeg_quality)
    assert_share((d.jpeg_last for d in draws), 0.5)
    assert_share((d.final_sinc for d in draws), config.final_sinc_prob)
    assert_uniform((d.final_sinc.cutoff for d in draws if d.final_sinc), math.pi / 3, math.pi)
    low, high = config.final_sinc_sizes
    assert {d.final_sinc.size for d in draws if d.final_sinc} == set(range(low, high + 1, 2))


def test_presets_differ_where_the_published_configurations_do():
    osediff, resshift, pisasr = (RealESRGANOptions(preset=p) for p in PRESETS)
    assert osediff == RealESRGANOptions()
    assert (osediff.first.resize_range, osediff.second.resize_range) == ((0.15, 1.5), (0.3, 1.2))
    assert (osediff.second.sigma, osediff.second.resize_prob, osediff.second.blur_prob) == (
        (0.2, 1.5),
        (0.3, 0.4, 0.3),
        0.8,
    )
    assert (osediff.second.gaussian_sigma, osediff.second.poisson_scale) == ((1, 25), (0.05, 2.5))
    sizes = {"kernel_sizes": (7, 21)}
    assert resshift.first.model_copy(update=sizes) == osediff.first
    assert resshift.second.model_copy(update=sizes) == osediff.second
    assert (
        resshift.first.kernel_sizes,
        resshift.second.kernel_sizes,
        resshift.final_sinc_sizes,
    ) == ((3, 19), (3, 13), (3, 13))
    assert (osediff.second_prob, resshift.second_prob, pisasr.second_prob) == (1, 0.5, 1)
    assert (pisasr.first.resize_range, pisasr.second.resize_range) == ((0.3, 1.5), (0.6, 1.2))
    assert (pisasr.first.gaussian_sigma, pisasr.second.gaussian_sigma) == ((1, 15), (1, 12))
    assert (pisasr.first.poisson_scale, pisasr.second.poisson_scale) == ((0.05, 2), (0.05, 1))
    assert (pisasr.first.jpeg_quality, pisasr.second.jpeg_quality, pisasr.second.blur_prob) == (
        (60, 95),
        (60, 100),
        0.5,
    )
    assert not any(c.sharpen for c in (osediff, resshift, pisasr))


def test_options_are_laid_over_the_preset():
    config = RealESRGANOptions.model_validate({"preset": "pisasr", "second": {"blur_prob": 0.9}})
    assert config.second == RealESRGANOptions(preset="pisasr").second.model_copy(
        update={"blur_prob": 0.9}
    )
    assert RealESRGANOptions.model_validate(config.model_dump()) == config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "realesrgan"}, "osediff"),
        ({"second": {"blur": 1}}, "second.blur"),
        ({"first": {"kernel_sizes": [8, 21]}}, "odd"),
        ({"first": {"resize_range": [1.1, 1.5]}}, "low <= 1 <= high"),
        ({"first": {"resize_prob": [0.5, 0.5, 0.5]}}, "sum to 1"),
        ({"first": {"jpeg_quality": [0, 95]}}, "1 to 100"),
        ({"second_prob": 1.5}, "less than or equal to 1"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValidationError, match=message) as error:
        RealESRGANOptions.model_validate(options)
    assert error.value.error_count() == 1


# the pipeline


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("scale", [2, 4])
def test_makes_8_bit_images_of_the_small_size(name, scale):
    spec, gt = SPECS[name], photo_like()
    degradation = spec.create(spec.config(scale=scale))
    assert isinstance(degradation, Degradation)
    lq = degradation(gt, seeded())
    assert lq.shape == (2, 3, 96 // scale, 80 // scale)
    levels = (lq + 1) * 127.5
    close(levels, levels.round(), 1e-4)
    assert lq.abs().max() <= 1
    with pytest.raises(DistillkitError, match=f"cannot be reduced {scale}x"):
        degradation(gt[..., :79], seeded())


@pytest.mark.parametrize("preset", PRESETS)
def test_is_a_function_of_image_and_generator(preset):
    degradation = SPECS["realesrgan"].create(RealESRGANOptions(preset=preset))
    gt = photo_like(batch=3)
    assert degradation(gt, seeded(3)).equal(degradation(gt, seeded(3)))
    assert not degradation(gt, seeded(3)).equal(degradation(gt, seeded(4)))
    # Whatever else is in the batch:
    assert degradation(gt[:2], seeded(3)).equal(degradation(gt, seeded(3))[:2])
    same = degradation(gt[:1].expand(2, -1, -1, -1), seeded(3))
    assert not same[0].equal(same[1])
    before = torch.random.get_rng_state()
    degradation(gt, seeded(3))
    assert torch.random.get_rng_state().equal(before)


def test_steps_come_in_the_published_order():
    image, size = photo_like(batch=1) * 0.5 + 0.5, (24, 20)
    blur = GaussianBlur("aniso", 7, 1.0, 2.0, 0.5, 1.0)
    noise = Noise("gaussian", 5.0, False)
    first, second = Round(blur, 0.7, "bilinear", noise), Round(None, 1.1, "area", noise)
    draws = Draws(first, 50.0, second, 70.0, "bicubic", SincBlur(9, 2.0), jpeg_last=True)

    g = seeded()
    x = F.interpolate(filter2d(image, blur.kernel()), scale_factor=0.7, mode="bilinear")
    x = jpeg((x + 5 / 255 * torch.randn(x.shape, generator=g)).clamp(0, 1), torch.tensor(50.0))
    x = F.interpolate(x, (int(24 * 1.1), int(20 * 1.1)), mode="area")
    x = (x + 5 / 255 * torch.randn(x.shape, generator=g)).clamp(0, 1)
    sinc = sinc_kernel(9, 2.0)
    reduced = filter2d(F.interpolate(x, size, mode="bicubic"), sinc).clamp(0, 1)
    close(degrade(image, draws, size, seeded()), jpeg(reduced, torch.tensor(70.0)), 1e-5)

    compressed_first = filter2d(
        F.interpolate(jpeg(x, torch.tensor(70.0)), size, mode="bicubic"), sinc
    )
    close(degrade(image, replace(draws, jpeg_last=False), size, seeded()), compressed_first, 1e-5)
    one_round = degrade(image, replace(draws, second=None, final_sinc=None), size, seeded())
    assert one_round.shape == (1, 3, 24, 20) and (one_round - reduced).abs().max() > 0.01


def test_degrades_more_than_bicubic_and_pisasr_less_than_the_others():
    gt = photo_like(batch=24)
    bicubic = SPECS["bicubic"].create(BicubicOptions())(gt, seeded())
    loss = {}
    for preset in PRESETS:
        degradation = SPECS["realesrgan"].create(RealESRGANOptions(preset=preset))
        loss[preset] = (degradation(gt, seeded()) - bicubic).square().mean().item()
    assert 0 < loss["pisasr"] < min(loss["osediff"], loss["resshift"])


def test_sharpening_is_done_before_anything_else():
    gt = photo_like()
    sharp = sharpen(gt * 0.5 + 0.5) * 2 - 1
    assert not sharp.equal(gt)
    plain = SPECS["realesrgan"].create(RealESRGANOptions(sharpen=False))
    sharpening = SPECS["realesrgan"].create(RealESRGANOptions(sharpen=True))
    close(sharpening(gt, seeded()), plain(sharp, seeded()), 1.1 * 2 / 255)


def test_small_crops_work_and_smaller_ones_are_refused():
    degradation = SPECS["realesrgan"].create(RealESRGANOptions())
    for seed in range(20):
        assert degradation(photo_like(1, 16, 16), seeded(seed)).isfinite().all()
    with pytest.raises(DistillkitError, match="too small"):
        degradation(torch.zeros(1, 3, 4, 4), seeded())


def test_bicubic_keeps_constants_and_averages():
    bicubic = SPECS["bicubic"].create(BicubicOptions())
    flat = torch.full((1, 3, 16, 24), 51 / 127.5 - 1)
    close(bicubic(flat, seeded()), flat[..., :4, :6], 1e-6)
    checkers = torch.tensor([[-1.0, 1.0], [1.0, -1.0]]).repeat(8, 12).expand(1, 3, -1, -1)
    assert bicubic(checkers, seeded()).abs().max() < 0.05  # no aliasing
