"""What a denoiser prediction_type, turned into a clean latent and its noise: the one place where parameterizations are converted."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

from distillkit.diffusion.process import ForwardProcess

PredictionType = Literal["epsilon", "sample", "v_prediction"]


class Prediction(NamedTuple):
    """A denoiser's opinion of ``z_t``, as both of its equivalent forms, each (B, C, h, w)."""

    sample: Tensor
    epsilon: Tensor


def epsilon_from_sample(
    process: ForwardProcess, z_t: Tensor, t: Tensor, clean: Tensor, y: Tensor | None
) -> Tensor:
    """``eps = (z_t - signal z_0 - shift y) / noise``."""
    c = process.coefficients(t)
    rest = z_t - c.signal * clean
    return (rest if y is None else rest - c.shift * y) / c.noise


def sample_from_epsilon(
    process: ForwardProcess, z_t: Tensor, t: Tensor, noise: Tensor, y: Tensor | None
) -> Tensor:
    """``z_0 = (z_t - shift y - noise eps) / signal``."""
    c = process.coefficients(t)
    rest = z_t - c.noise * noise
    return (rest if y is None else rest - c.shift * y) / c.signal


def _sample_from_v(
    process: ForwardProcess, z_t: Tensor, t: Tensor, velocity: Tensor, y: Tensor | None
) -> Tensor:
    """Solve ``z_t = a z_0 + b y + s eps`` and ``v = a' z_0 + b' y + s' eps`` for ``z_0``."""
    c, d = process.coefficients(t), process.velocity_coefficients(t)
    if y is not None:
        z_t, velocity = z_t - c.shift * y, velocity - d.shift * y
    return (d.noise * z_t - c.noise * velocity) / (c.signal * d.noise - c.noise * d.signal)


def to_prediction(
    output: Tensor,
    prediction_type: PredictionType,
    process: ForwardProcess,
    z_t: Tensor,
    t: Tensor,
    y: Tensor | None = None,
) -> Prediction:
    """A raw network output as a :class:`Prediction`.

    Args:
        output, z_t: (B, C, h, w). t: (B,). y: the latent that ``shift(t)`` multiplies, or None.
        prediction_type: what ``output`` is: ``"noise"`` eps, ``"clean"`` z_0, or ``"velocity"`` dz_t/dt of the process.

    At the same ``z_t`` two predictions obey ``|eps_a - eps_b|^2 = SNR |z0_a - z0_b|^2``.
    """
    if prediction_type == "epsilon":
        return Prediction(sample_from_epsilon(process, z_t, t, output, y), output)
    clean = output if prediction_type == "sample" else _sample_from_v(process, z_t, t, output, y)
    return Prediction(clean, epsilon_from_sample(process, z_t, t, clean, y))
