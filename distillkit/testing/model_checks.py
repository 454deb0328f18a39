"""Promises of teachers and students. Each function tests what its docstring states, and raises if it is not kept."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from distillkit.diffusion.codec import Codec
from distillkit.diffusion.model import Condition, DiffusionModel, OutputTeacher
from distillkit.diffusion.prediction import PredictionType
from distillkit.diffusion.process import ForwardProcess
from distillkit.plugins.descriptors import Spec, TeacherSpec
from distillkit.testing.contract import DoesNotApply
from distillkit.testing.probe import (
    finite,
    generator,
    images,
    in_range,
    positive_integer,
    repeatable,
    require,
)

BATCH = 2


def _lq(model: Any) -> Tensor:
    """Inputs of an awkward size: sides that are odd multiples of what the model asks for."""
    side = model.size_multiple * (2 * (math.ceil(32 / model.size_multiple) // 2) + 1)
    return images(
        BATCH, side, side + 2 * model.size_multiple if model.size_multiple <= 16 else side
    )


def _gt(model: Any, seed: int = 1) -> Tensor:
    lq = _lq(model)
    return images(BATCH, lq.shape[2] * model.scale, lq.shape[3] * model.scale, seed)


def _noised(model: DiffusionModel, seed: int = 2) -> tuple[Tensor, Tensor, Condition]:
    """A noised latent, its times, and the condition, without gradient."""
    with torch.no_grad():
        condition = model.condition(_lq(model))
        z_0 = model.encode(_gt(model), condition)
        t = model.process.sample_timesteps(BATCH, generator(seed))
        noise = torch.randn(z_0.shape, generator=generator(seed))
        return model.process.add_noise(z_0, noise, t, condition.y), t, condition


def is_a_model(model: Any) -> None:
    """is a DiffusionModel with a named latent space, a process, a network, and what it predicts."""
    require(isinstance(model, DiffusionModel), f"build returned a {type(model).__name__}")
    require(isinstance(model.space, str), "its latent space has no name")
    require(isinstance(model.process, ForwardProcess), "process is no ForwardProcess")
    require(
        model.prediction_type in get_args(PredictionType),
        f"predicts is {model.prediction_type!r}, expected one of {get_args(PredictionType)}",
    )
    require(isinstance(model.network, nn.Module), "network is no torch module")
    for attribute in ("scale", "nfe", "size_multiple"):
        positive_integer(model, attribute)


def codec_keeps_sizes(model: DiffusionModel) -> None:
    """encodes images to finite latents and decodes them to images of the same size, with gradient through both."""
    image, condition = _gt(model).requires_grad_(), model.condition(_lq(model))
    latent = model.encode(image, condition)
    finite("the latent", latent, (BATCH, *latent.shape[1:4]))
    decoded = model.decode(latent, condition)
    finite("the decoded latent", decoded, tuple(image.shape))
    require(
        decoded.requires_grad, "the codec cuts the gradient from the decoded image to the image"
    )
    (gradient,) = torch.autograd.grad(decoded.square().mean(), image)
    require(
        bool(gradient.abs().sum() > 0), "no gradient reaches the image through encode and decode"
    )


def process_is_positive(model: DiffusionModel) -> None:
    """has a process with positive signal and noise at every time it was trained at, each (B, 1, 1, 1)."""
    c = model.process.coefficients(model.process.sample_timesteps(64, generator()))
    for name, value in zip(c._fields, c, strict=True):
        finite(name, value, (64, 1, 1, 1))
    require(bool((c.signal > 0).all() and (c.noise > 0).all()), "signal or noise is not positive")


def process_times_invert(model: DiffusionModel) -> None:
    """has a process whose timestep_at inverts log_snr, within log_snr_range."""
    process = model.process
    t = process.sample_timesteps(64, generator())
    log_snr = process.log_snr(t)
    low, high = process.log_snr_range()
    slack = 1e-3 * max(1.0, high - low)
    require(
        bool(((log_snr >= low - slack) & (log_snr <= high + slack)).all()),
        f"log_snr leaves log_snr_range ({low:.3g}, {high:.3g})",
    )
    error = (process.timestep_at(log_snr).double() - t.double()).abs().max()
    require(
        float(error) <= 1e-3 * max(1.0, float(t.abs().max())),
        f"timestep_at(log_snr(t)) is off by {float(error):.3g}",
    )


def process_diffuses(model: DiffusionModel) -> None:
    """noises a latent as signal z_0 + shift y + noise eps."""
    z_t, t, condition = _noised(model)
    c, z_0 = model.process.coefficients(t), model.encode(_gt(model), condition).detach()
    noise = torch.randn(z_0.shape, generator=generator(2))
    if condition.y is not None:
        finite("condition.y", condition.y, tuple(z_0.shape))
    expected = (
        c.signal * z_0 + c.noise * noise + (0 if condition.y is None else c.shift * condition.y)
    )
    require(torch.allclose(z_t, expected, atol=1e-4), "diffuse does not add up to its coefficients")


def predictions_agree(model: DiffusionModel) -> None:
    """predicts a clean latent and a noise that add up to z_t; two predictions obey |eps_a - eps_b|^2 = SNR |z0_a - z0_b|^2."""
    z_t, t, condition = _noised(model)
    c = model.process.coefficients(t)
    with torch.no_grad():
        finite("the network's output", model(z_t, t, condition), tuple(z_t.shape))
        a = model.predict(z_t, t, condition)
        b = model.predict(z_t, t, model.condition(_lq(model).flip(0)))
    for name, value in (("predict(...).sample", a.sample), ("predict(...).epsilon", a.epsilon)):
        finite(name, value, tuple(z_t.shape))
    again = (
        c.signal * a.sample
        + c.noise * a.epsilon
        + (0 if condition.y is None else c.shift * condition.y)
    )
    require(
        torch.allclose(again, z_t, atol=1e-3),
        f"signal clean + shift y + noise eps misses z_t by {float((again - z_t).abs().max()):.3g}",
    )
    if condition.y is None:  # with a y, the two conditions would have to share it
        left, right = (
            (a.epsilon - b.epsilon).square(),
            c.ratio.square() * (a.sample - b.sample).square(),
        )
        require(
            torch.allclose(left, right, rtol=1e-2, atol=1e-3),
            "the differences of two predictions break the SNR identity",
        )


def score_passes_gradient(model: DiffusionModel) -> None:
    """passes gradient from its prediction to z_t while its own weights are frozen."""
    model.requires_grad_(False)
    z_t, t, condition = _noised(model)
    noise = model.predict(z_t.requires_grad_(), t, condition).epsilon
    require(noise.requires_grad, "predict cuts the gradient (torch.no_grad or detach inside?)")
    (gradient,) = torch.autograd.grad(noise.square().mean(), z_t)
    finite("the gradient at z_t", gradient, tuple(z_t.shape))


def generates(model: DiffusionModel) -> None:
    """generates a latent of the size that its codec gives the restored image, the same for the same generator."""
    with torch.no_grad():
        condition = model.condition(_lq(model))
        expected = model.encode(_gt(model), condition).shape
        finite("generate(...)", model.generate(condition, generator()), tuple(expected))
        repeatable("generate(...)", lambda: model.generate(condition, generator()))


def student_has_a_codec(model: DiffusionModel) -> None:
    """has a Codec: a student's latents depend on the image alone."""
    require(
        isinstance(model.codec, Codec) and model.codec.space == model.space,
        "codec is no Codec of the model's space",
    )


def student_learns(model: DiffusionModel) -> None:
    """generates with gradient to the weights of its network."""
    model.requires_grad_(False)
    model.network.requires_grad_(True)
    latent = model.generate(model.condition(_lq(model)), generator())
    require(latent.requires_grad, "generate cuts the gradient (torch.no_grad or detach inside?)")
    weights = [w for w in model.network.parameters() if w.is_floating_point()]
    gradients = torch.autograd.grad(latent.square().mean(), weights, allow_unused=True)
    model.requires_grad_(False)
    reached = [g for g in gradients if g is not None]
    require(
        all(bool(torch.isfinite(g).all()) for g in reached),
        "a gradient of the network's weights is NaN or infinite",
    )
    require(
        any(bool(g.abs().sum() > 0) for g in reached), "no gradient reaches the network's weights"
    )


def restores(model: Any) -> None:
    """restores images of any size it allows to scale times that size, in [-1, 1], the same for the same generator."""
    for attribute in ("scale", "nfe", "size_multiple"):
        positive_integer(model, attribute)
    lq = _lq(model)
    before = lq.clone()
    with torch.no_grad():
        restored = model.restore(lq, generator())
        finite("restore(...)", restored, tuple(_gt(model).shape))
        in_range("restore(...)", restored)
        repeatable("restore(...)", lambda: model.restore(lq, generator()))
    require(torch.equal(lq, before), "restore changes its input in place")


def stays_as_it_is(model: Any) -> None:
    """keeps its weights and buffers while it works."""
    if not isinstance(model, nn.Module):
        raise DoesNotApply("it is no torch module")
    before = {name: value.double().sum() for name, value in model.state_dict().items()}
    with torch.no_grad():
        cast(OutputTeacher, model).restore(_lq(model), generator())
    changed = [
        name
        for name, value in model.state_dict().items()
        if not torch.equal(value.double().sum(), before[name])
    ]
    require(not changed, f"restore changes {', '.join(changed[:3])}")


def promises(spec: Spec) -> list[Callable[[Any], None]]:
    """What a student, or a teacher with its capabilities, promises."""
    model = [
        is_a_model,
        codec_keeps_sizes,
        process_is_positive,
        process_times_invert,
        process_diffuses,
        predictions_agree,
    ]
    if not isinstance(spec, TeacherSpec):
        return [*model, student_has_a_codec, generates, restores, student_learns]
    score = [*model, score_passes_gradient] if "score" in spec.capabilities else []
    return [*score, *([restores, stays_as_it_is] if "output" in spec.capabilities else [])]
