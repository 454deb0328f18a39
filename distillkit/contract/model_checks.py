"""Checks of teachers and students."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple, cast, get_args

import torch
from torch import Tensor, nn

from distillkit.contract.probe import (
    require,
    require_finite,
    require_image_range,
    require_positive_integer,
    require_repeatable,
    seeded,
    smooth_images,
)
from distillkit.contract.results import Check, DoesNotApply
from distillkit.diffusion.codec import Codec
from distillkit.diffusion.model import (
    Condition,
    DiffusionModel,
    ModelInput,
    OutputTeacher,
    RestorationModel,
)
from distillkit.diffusion.prediction import PredictionType
from distillkit.diffusion.process import ForwardProcess
from distillkit.plugins.descriptors import Capability

BATCH = 2
TIMESTEPS = 64
"""Timesteps drawn to check a process."""
LEAST_SIDE = 32
"""Sides of the inputs are about this many pixels, or more where ``size_multiple`` is larger."""
DIRECTIONS = 2
"""Directions of finite differences."""
SHIFTED_SIDE = 96
"""Side of the image that is restored from several starts, about."""
SHIFT_FACTORS = (2, 3, 4, 8)
"""How many times ``size_multiple`` a network's total stride is searched for."""
LARGEST_SHIFTED_MULTIPLE = 8
"""Largest ``size_multiple`` that is checked: larger ones need images that take too long."""
GRAY_LEVEL = 2 / 255
"""One of 8 bits, in [-1, 1]."""
STEP = 0.02
"""Largest step of finite differences, in units of the noise."""


def _lq(model: Any, n: int = BATCH) -> Tensor:
    """Draw inputs whose sides are odd multiples of ``size_multiple``, and differ."""
    unit = model.size_multiple
    count = 2 * (math.ceil(LEAST_SIDE / unit) // 2) + 1
    height = width = unit * count
    # Larger units would make the images too large.
    if unit <= 16:
        width += 2 * unit
    return smooth_images(n, height, width).to(_device_of(model))


def _gt(model: Any, n: int = BATCH, seed: int = 1) -> Tensor:
    height, width = _lq(model).shape[2:]
    images = smooth_images(n, height * model.scale, width * model.scale, seed)
    return images.to(_device_of(model))


def _device_of(model: Any) -> torch.device:
    """Return where a module's weights are; the CPU for what is no module."""
    if isinstance(model, nn.Module):
        for weight in model.parameters():
            return weight.device
    return torch.device("cpu")


def _condition(model: RestorationModel, n: int = BATCH) -> Condition:
    return model.condition(ModelInput(_lq(model, n)))


class _Noised(NamedTuple):
    """A noised latent and what it was made of, without gradient."""

    z_t: Tensor
    z_0: Tensor
    noise: Tensor
    t: Tensor
    condition: Condition


@torch.no_grad()
def _noised_latent(model: DiffusionModel, n: int = BATCH, seed: int = 2) -> _Noised:
    condition = _condition(model, n)
    z_0 = model.encode(_gt(model, n), condition)
    t = model.process.sample_timesteps(n, seeded(seed)).to(z_0.device)
    noise = torch.randn(z_0.shape, generator=seeded(seed)).to(z_0)
    z_t = model.process.add_noise(z_0, noise, t, condition.y)
    return _Noised(z_t, z_0, noise, t, condition)


def _combine(model: DiffusionModel, noised: _Noised, sample: Tensor, epsilon: Tensor) -> Tensor:
    """Compute ``signal sample + noise epsilon + shift y``."""
    c = model.process.coefficients(noised.t)
    z_t = c.signal * sample + c.noise * epsilon
    if noised.condition.y is not None:
        z_t = z_t + c.shift * noised.condition.y
    return z_t


def check_interface(model: Any) -> None:
    """Be a DiffusionModel with a latent space, a process and a network."""
    require(isinstance(model, DiffusionModel), f"build returned a {type(model).__name__}")
    require(isinstance(model.space, str), "its latent space has no name")
    require(isinstance(model.process, ForwardProcess), "process is no ForwardProcess")
    types = get_args(PredictionType)
    message = f"prediction_type is {model.prediction_type!r}, expected one of {types}"
    require(model.prediction_type in types, message)
    require(isinstance(model.network, nn.Module), "network is no torch module")
    _check_sizes(model)


def check_student_interface(model: Any) -> None:
    """Be a RestorationModel with a latent space and a network."""
    require(isinstance(model, RestorationModel), f"build returned a {type(model).__name__}")
    require(isinstance(model.space, str), "its latent space has no name")
    require(isinstance(model.network, nn.Module), "network is no torch module")
    _check_sizes(model)


def _check_sizes(model: Any) -> None:
    for attribute in ("scale", "nfe", "size_multiple"):
        require_positive_integer(model, attribute)


def check_codec(model: RestorationModel) -> None:
    """Encode images and decode them to their size, with gradient."""
    image = _gt(model).requires_grad_()
    condition = _condition(model)
    latent = model.encode(image, condition)
    require_finite("the latent", latent, (BATCH, *latent.shape[1:4]))
    decoded = model.decode(latent, condition)
    require_finite("the decoded latent", decoded, tuple(image.shape))
    message = "the codec cuts the gradient from the decoded image to the image"
    require(decoded.requires_grad, message)
    (gradient,) = torch.autograd.grad(decoded.square().mean(), image)
    message = "no gradient reaches the image through encode and decode"
    require(gradient.abs().sum() > 0, message)


def check_coefficients(model: DiffusionModel) -> None:
    """Have a process with positive signal and noise at every timestep.

    Each coefficient is a tensor (B, 1, 1, 1).
    """
    t = model.process.sample_timesteps(TIMESTEPS, seeded())
    c = model.process.coefficients(t)
    for name, value in zip(c._fields, c, strict=True):
        require_finite(name, value, (TIMESTEPS, 1, 1, 1))
        if name != "shift":
            require((value > 0).all(), f"{name} is not positive")


def check_log_snr(model: DiffusionModel) -> None:
    """Have a process whose timestep_at inverts log_snr, in its range."""
    process = model.process
    t = process.sample_timesteps(TIMESTEPS, seeded())
    log_snr = process.log_snr(t)
    low, high = process.log_snr_range()
    slack = 1e-3 * max(1.0, high - low)
    message = f"log_snr leaves log_snr_range ({low:.3g}, {high:.3g})"
    require(log_snr.min() >= low - slack, message)
    require(log_snr.max() <= high + slack, message)
    error = float((process.timestep_at(log_snr).double() - t.double()).abs().max())
    largest = max(1.0, float(t.abs().max()))
    require(error <= 1e-3 * largest, f"timestep_at(log_snr(t)) is off by {error:.3g}")


def check_add_noise(model: DiffusionModel) -> None:
    """Noise a latent as signal z_0 + shift y + noise epsilon."""
    noised = _noised_latent(model)
    if noised.condition.y is not None:
        require_finite("condition.y", noised.condition.y, tuple(noised.z_0.shape))
    expected = _combine(model, noised, noised.z_0, noised.noise)
    same = torch.allclose(noised.z_t, expected, atol=1e-4)
    require(same, "add_noise does not add up to its coefficients")


def check_predictions(model: DiffusionModel) -> None:
    """Predict a sample and an epsilon that add up to z_t.

    Two predictions obey ``|eps_a - eps_b|^2 = SNR |z0_a - z0_b|^2``.
    """
    noised = _noised_latent(model)
    z_t, t, condition = noised.z_t, noised.t, noised.condition
    shape = tuple(z_t.shape)
    with torch.no_grad():
        require_finite("the network's output", model(z_t, t, condition), shape)
        a = model.predict(z_t, t, condition)
        b = model.predict(z_t, t, model.condition(ModelInput(_lq(model).flip(0))))
    require_finite("predict(...).sample", a.sample, shape)
    require_finite("predict(...).epsilon", a.epsilon, shape)
    combined = _combine(model, noised, a.sample, a.epsilon)
    error = float((combined - z_t).abs().max())
    require(
        torch.allclose(combined, z_t, atol=1e-3),
        f"signal sample + shift y + noise epsilon misses z_t by {error:.3g}",
    )
    if condition.y is not None:
        return  # the two conditions would have to share it
    ratio = model.process.coefficients(t).ratio
    epsilons = (a.epsilon - b.epsilon).square()
    samples = ratio.square() * (a.sample - b.sample).square()
    same = torch.allclose(epsilons, samples, rtol=1e-2, atol=1e-3)
    require(same, "the differences of two predictions break the SNR identity")


def check_score_gradient(model: DiffusionModel) -> None:
    """Pass the gradient of the raw output to z_t while weights are frozen.

    The predictions would hide a network without gradient, because they contain z_t themselves.
    """
    model.requires_grad_(False)
    # One image: this is the check that makes the most passes, and every run makes it.
    noised = _noised_latent(model, n=1)
    z_t = noised.z_t.requires_grad_()
    epsilon = model.predict(z_t, noised.t, noised.condition).epsilon
    message = "predict cuts the gradient (torch.no_grad or detach inside?)"
    require(epsilon.requires_grad, message)
    output = model(z_t, noised.t, noised.condition)
    message = "forward cuts the gradient (torch.no_grad or detach inside?)"
    require(output.requires_grad, message)
    weights = torch.randn(output.shape, generator=seeded(3)).to(output)
    (gradient,) = torch.autograd.grad((weights * output).sum(), z_t)
    require_finite("the gradient at z_t", gradient, tuple(z_t.shape))

    def weighted_output(at: Tensor) -> Tensor:
        return (weights * model(at, noised.t, noised.condition)).sum(dtype=torch.float64)

    _require_gradient(weighted_output, z_t.detach(), gradient)


@torch.no_grad()
def _require_gradient(
    function: Callable[[Tensor], Tensor], position: Tensor, gradient: Tensor
) -> None:
    """Require a gradient that finite differences along random directions confirm."""
    for seed in range(DIRECTIONS):
        direction = torch.randn(position.shape, generator=seeded(4 + seed)).to(position)
        found = float((gradient * direction).sum(dtype=torch.float64))
        expected = _slope(function, position, direction, STEP)
        if abs(found - expected) <= 0.2 * abs(expected):
            continue
        # Rounding of low precision, or a kink of the network, makes a difference useless: half the
        # step then gives another one.
        half = _slope(function, position, direction, STEP / 2)
        require(
            abs(half - expected) > 0.05 * abs(expected),
            f"the gradient of forward is {found:.3g} where finite differences are {expected:.3g} "
            "(torch.no_grad or detach in a part of it?)",
        )


def _slope(
    function: Callable[[Tensor], Tensor], position: Tensor, direction: Tensor, step: float
) -> float:
    high = function(position + step * direction)
    low = function(position - step * direction)
    return float(high - low) / (2 * step)


@torch.no_grad()
def check_generate(model: RestorationModel) -> None:
    """Generate a finite latent of the codec's size."""
    condition = _condition(model)
    expected = model.encode(_gt(model), condition).shape
    require_finite("generate(...)", model.generate(condition, seeded()), tuple(expected))


@torch.no_grad()
def check_generate_draws(model: RestorationModel) -> None:
    """Generate with draws from the generator alone."""
    condition = _condition(model)
    require_repeatable("generate(...)", lambda: model.generate(condition, seeded()))


def check_student_codec(model: RestorationModel) -> None:
    """Have a Codec, so that its latents depend on the image alone."""
    is_codec = isinstance(model.codec, Codec) and model.codec.space == model.space
    require(is_codec, "codec is no Codec of the model's space")


def check_student_gradient(model: RestorationModel) -> None:
    """Generate with gradient to the weights of its network."""
    model.requires_grad_(False)
    model.network.requires_grad_(True)
    try:
        _require_weight_gradient(model)
    finally:
        model.requires_grad_(False)


def _require_weight_gradient(model: RestorationModel) -> None:
    latent = model.generate(_condition(model), seeded())
    message = "generate cuts the gradient (torch.no_grad or detach inside?)"
    require(latent.requires_grad, message)
    weights = [w for w in model.network.parameters() if w.is_floating_point()]
    require(bool(weights), "the network has no weights")
    # Biases have gradient where the matrices beside them do, and theirs takes no memory.
    weights = [w for w in weights if w.dim() == 1] or weights
    gradients = torch.autograd.grad(latent.square().mean(), weights, allow_unused=True)
    reached = [gradient for gradient in gradients if gradient is not None]
    for gradient in reached:
        finite = torch.isfinite(gradient).all()
        require(finite, "a gradient of the network's weights is NaN or infinite")
    nonzero = any(gradient.abs().sum() > 0 for gradient in reached)
    require(nonzero, "no gradient reaches the network's weights")


@torch.no_grad()
def check_restore(model: Any) -> None:
    """Restore images to scale times their size, in [-1, 1]."""
    _check_sizes(model)
    restored = model.restore(ModelInput(_lq(model)), seeded())
    require_finite("restore(...)", restored, tuple(_gt(model).shape))
    require_image_range("restore(...)", restored)


@torch.no_grad()
def check_restore_draws(model: Any) -> None:
    """Restore with draws from the generator alone, and leave its input alone."""
    lq = _lq(model)
    inputs = ModelInput(lq)
    before = lq.clone()
    require_repeatable("restore(...)", lambda: model.restore(inputs, seeded()))
    require(torch.equal(lq, before), "restore changes its input in place")


@torch.no_grad()
def check_unchanged_weights(model: Any) -> None:
    """Keep weights and buffers as they are while it restores."""
    if not isinstance(model, nn.Module):
        raise DoesNotApply("it is no torch module")
    before = _sums(model)
    cast(OutputTeacher, model).restore(ModelInput(_lq(model)), seeded())
    after = _sums(model)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    require(not changed, f"restore changes {', '.join(changed[:3])}")


def _sums(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.double().sum() for name, value in model.state_dict().items()}


@torch.no_grad()
def check_size_multiple(model: Any) -> None:
    """Restore alike from every multiple of size_multiple on.

    Tiles start at such multiples. Where a network halves its inputs more often than that says, a
    tile is restored on another grid than the full image. Only a start that agrees far better tells
    so: a model that draws, or that sees the whole image, has no such start.
    """
    unit = model.size_multiple
    if unit > LARGEST_SHIFTED_MULTIPLE:
        raise DoesNotApply(f"size_multiple is {unit}: images of several strides are too large")
    side = math.ceil(SHIFTED_SIDE / unit) * unit
    lq = smooth_images(1, side, side).to(_device_of(model))
    full = model.restore(ModelInput(lq), seeded())
    rows = model.scale * side // 2

    def deviation(shift: int) -> float:
        """Cut an image at the top and the left, and compare what is far from there."""
        cut = model.restore(ModelInput(lq[..., shift:, shift:]), seeded())
        return float((full[..., -rows:, -rows:] - cut[..., -rows:, -rows:]).abs().max())

    found = deviation(unit)
    if found <= GRAY_LEVEL:
        return
    for factor in SHIFT_FACTORS:
        aligned = deviation(factor * unit)
        require(
            aligned > found / 4,
            f"size_multiple is {unit}, but an image that is cut by {unit} comes out "
            f"{found / GRAY_LEVEL:.1f} gray levels off, and only {aligned / GRAY_LEVEL:.1f} if it "
            f"is cut by {factor * unit}: the network's total stride is larger than size_multiple",
        )


MODEL_CHECKS: list[Check] = [
    check_interface,
    check_codec,
    check_coefficients,
    check_log_snr,
    check_add_noise,
    check_predictions,
]


def student_checks(capabilities: Collection[Capability]) -> list[Check]:
    """List the checks of a student's capabilities."""
    checks = MODEL_CHECKS if "score" in capabilities else [check_student_interface, check_codec]
    return [
        *checks,
        check_student_codec,
        check_generate,
        check_generate_draws,
        check_restore,
        check_restore_draws,
        check_size_multiple,
        check_student_gradient,
    ]


def teacher_checks(capabilities: Collection[Capability]) -> list[Check]:
    """List the checks of a teacher's capabilities."""
    checks: list[Check] = []
    if "score" in capabilities:
        checks += [*MODEL_CHECKS, check_score_gradient]
    if "output" in capabilities:
        checks += [check_restore, check_restore_draws, check_size_multiple, check_unchanged_weights]
    return checks


def student_checks_of_run(capabilities: Collection[Capability]) -> list[Check]:
    """List the checks of a student that a run repeats: quick, of faults that raise no error."""
    checks: list[Check] = [check_student_interface, check_codec]
    if "score" in capabilities:
        checks = [check_interface, check_codec, check_predictions]
    return [*checks, check_generate, check_restore, check_student_gradient]


def teacher_checks_of_run(capabilities: Collection[Capability]) -> list[Check]:
    """List the checks of a teacher that a run repeats."""
    checks: list[Check] = []
    if "score" in capabilities:
        checks += [check_interface, check_predictions, check_score_gradient]
    if "output" in capabilities:
        checks.append(check_restore)
    return checks
