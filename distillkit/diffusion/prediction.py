"""What a denoiser predicts, turned into a clean latent and its noise: the one place where parameterisations are converted."""

from __future__ import annotations

from typing import Literal, NamedTuple

from torch import Tensor

from distillkit.diffusion.process import ForwardProcess

Predicts = Literal["noise", "clean", "velocity"]


class Prediction(NamedTuple):
    """A denoiser's opinion of ``z_t``, as both of its equivalent forms, each (B, C, h, w)."""

    clean: Tensor
    noise: Tensor


def noise_from_clean(
    process: ForwardProcess, z_t: Tensor, t: Tensor, clean: Tensor, y: Tensor | None
) -> Tensor:
    """``eps = (z_t - signal z_0 - shift y) / noise``."""
    c = process.coefficients(t)
    rest = z_t - c.signal * clean
    return (rest if y is None else rest - c.shift * y) / c.noise


def clean_from_noise(
    process: ForwardProcess, z_t: Tensor, t: Tensor, noise: Tensor, y: Tensor | None
) -> Tensor:
    """``z_0 = (z_t - shift y - noise eps) / signal``."""
    c = process.coefficients(t)
    rest = z_t - c.noise * noise
    return (rest if y is None else rest - c.shift * y) / c.signal


def _clean_from_velocity(
    process: ForwardProcess, z_t: Tensor, t: Tensor, velocity: Tensor, y: Tensor | None
) -> Tensor:
    """Solve ``z_t = a z_0 + b y + s eps`` and ``v = a' z_0 + b' y + s' eps`` for ``z_0``."""
    c, d = process.coefficients(t), process.velocity_coefficients(t)
    if y is not None:
        z_t, velocity = z_t - c.shift * y, velocity - d.shift * y
    return (d.noise * z_t - c.noise * velocity) / (c.signal * d.noise - c.noise * d.signal)


def to_prediction(
    output: Tensor,
    predicts: Predicts,
    process: ForwardProcess,
    z_t: Tensor,
    t: Tensor,
    y: Tensor | None = None,
) -> Prediction:
    """A raw network output as a :class:`Prediction`.

    Args:
        output, z_t: (B, C, h, w). t: (B,). y: the latent that ``shift(t)`` multiplies, or None.
        predicts: what ``output`` is: ``"noise"`` eps, ``"clean"`` z_0, or ``"velocity"`` dz_t/dt of the process.

    At the same ``z_t`` two predictions obey ``|eps_a - eps_b|^2 = SNR |z0_a - z0_b|^2``.
    """
    if predicts == "noise":
        return Prediction(clean_from_noise(process, z_t, t, output, y), output)
    clean = output if predicts == "clean" else _clean_from_velocity(process, z_t, t, output, y)
    return Prediction(clean, noise_from_clean(process, z_t, t, clean, y))
