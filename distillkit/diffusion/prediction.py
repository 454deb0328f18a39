"""Convert what a denoiser predicts into a clean latent and its noise.

This is the one place where parameterizations are converted. Their names are those of diffusers'
schedulers: ``epsilon`` is the noise, ``sample`` the clean latent, ``v_prediction`` the velocity.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

from distillkit.diffusion.process import ForwardProcess

PredictionType = Literal["epsilon", "sample", "v_prediction"]


class Prediction(NamedTuple):
    """A denoiser's prediction for ``z_t`` in both of its equivalent forms, each (B, C, h, w)."""

    sample: Tensor
    """The clean latent ``z_0``."""
    epsilon: Tensor
    """The noise."""


def epsilon_from_sample(
    process: ForwardProcess, z_t: Tensor, t: Tensor, sample: Tensor, y: Tensor | None
) -> Tensor:
    """Return ``eps = (z_t - signal z_0 - shift y) / noise``."""
    c = process.coefficients(t)
    rest = z_t - c.signal * sample
    if y is not None:
        rest = rest - c.shift * y
    return rest / c.noise


def sample_from_epsilon(
    process: ForwardProcess, z_t: Tensor, t: Tensor, epsilon: Tensor, y: Tensor | None
) -> Tensor:
    """Return ``z_0 = (z_t - shift y - noise eps) / signal``."""
    c = process.coefficients(t)
    rest = z_t - c.noise * epsilon
    if y is not None:
        rest = rest - c.shift * y
    return rest / c.signal


def sample_from_velocity(
    process: ForwardProcess, z_t: Tensor, t: Tensor, velocity: Tensor, y: Tensor | None
) -> Tensor:
    """Solve ``z_t = a z_0 + b y + s eps`` and ``v = a' z_0 + b' y + s' eps`` for ``z_0``."""
    c = process.coefficients(t)
    d = process.velocity_coefficients(t)
    if y is not None:
        z_t = z_t - c.shift * y
        velocity = velocity - d.shift * y
    return (d.noise * z_t - c.noise * velocity) / (c.signal * d.noise - c.noise * d.signal)


def to_prediction(
    output: Tensor,
    prediction_type: PredictionType,
    process: ForwardProcess,
    z_t: Tensor,
    t: Tensor,
    y: Tensor | None = None,
) -> Prediction:
    """Convert a raw network output to a :class:`Prediction`.

    At the same ``z_t`` two predictions obey ``|eps_a - eps_b|^2 = SNR |z0_a - z0_b|^2``.

    Args:
        output: The output of the network, (B, C, h, w).
        prediction_type: What ``output`` is: ``"epsilon"`` the noise, ``"sample"`` the clean
            latent ``z_0``, ``"v_prediction"`` the velocity ``dz_t/dt`` of the process.
        process: The forward process that the network was trained with.
        z_t: The noised latent that the network saw, (B, C, h, w).
        t: Its timesteps, (B,).
        y: The latent that ``shift(t)`` multiplies, (B, C, h, w), or None.
    """
    if prediction_type == "epsilon":
        return Prediction(sample_from_epsilon(process, z_t, t, output, y), output)
    if prediction_type == "v_prediction":
        output = sample_from_velocity(process, z_t, t, output, y)
    return Prediction(output, epsilon_from_sample(process, z_t, t, output, y))
