"""The sizes of Reti-Diff's networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class RetiDiffConfig:
    """Sizes of the priors, their diffusion and the transformer.

    Names and defaults are those of the published options file.
    """

    n_feats: int = 64
    """A prior vector has four times as many numbers."""
    n_encoder_res: int = 5
    """Residual blocks of an extractor."""
    n_denoise_res: int = 1
    """Layers of a denoiser after its first."""
    timesteps: int = 4
    """Timesteps of the diffusion over the priors."""
    linear_start: float = 0.1
    """First beta; the schedule is linear in sqrt(beta)."""
    linear_end: float = 0.99
    """Last beta."""
    inp_channels: int = 3
    out_channels: int = 3
    dim: int = 64
    """Channels of the transformer's first level; each level below has twice as many."""
    num_blocks: Sequence[int] = (3, 3, 3, 3)
    """Blocks of each level."""
    num_refinement_blocks: int = 3
    heads: Sequence[int] = (1, 2, 4, 8)
    """Attention heads of each level."""
    ffn_expansion_factor: float = 2.66
    bias: bool = False
    """Whether the transformer's convolutions have biases."""
    LayerNorm_type: str = "WithBias"  # the published option's name
    """``"WithBias"`` or ``"BiasFree"``."""
    training_head: bool = False
    """Whether to build ``decom``, the decomposition head that only training uses."""

    @property
    def prior_size(self) -> int:
        """The length of a prior vector."""
        return 4 * self.n_feats
