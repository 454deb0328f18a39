"""A checkpoint as a teacher."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distillkit import ModelInput
from distillkit_spandrel.options import TeacherOptions
from distillkit_spandrel.recognition import Network, read_network

LARGEST_SEED = 2**62


class Checkpoint(nn.Module):
    """An output teacher: a network called by spandrel, in float32 and without gradient.

    ``size_multiple`` is what the network divides its sides by. If it also asks for a minimum size
    or a square, spandrel pads to it and crops the result.

    Args:
        descriptor: A network of 3 channels; or of 1, which restores red, green and blue as three
            gray images.
    """

    nfe = 1

    def __init__(self, descriptor: Network) -> None:
        super().__init__()
        self.network = descriptor.model
        self.descriptor = descriptor
        self.scale = descriptor.scale
        self.size_multiple = descriptor.size_requirements.multiple_of

    def restore(self, inputs: ModelInput, generator: torch.Generator | None = None) -> Tensor:
        """Restore images.

        Args:
            inputs: Images (B, 3, h, w) in [-1, 1].
            generator: For a network that draws.

        Returns:
            (B, 3, scale h, scale w) in [-1, 1].
        """
        lq = inputs.lq
        batch, _, height, width = lq.shape
        images = (lq.float() * 0.5 + 0.5).reshape(-1, self.descriptor.input_channels, height, width)
        seed = int(torch.randint(LARGEST_SEED, (), generator=generator))
        devices = [lq.device] if lq.is_cuda else []
        with (
            torch.random.fork_rng(devices),
            torch.autocast(lq.device.type, enabled=False),
        ):
            torch.manual_seed(seed)
            # spandrel promises to take one image at a time.
            restored = [self.descriptor(image) for image in images.split(1)]
        # Computed outside of spandrel's inference mode: a loss may keep it for its backward pass.
        joined = torch.cat(restored) * 2 - 1
        return joined.reshape(batch, 3, *joined.shape[-2:])


def build(options: TeacherOptions) -> Checkpoint:
    """Load the checkpoint that a recipe names, downloading it where it is missing."""
    (file,) = options.weight_files()
    return Checkpoint(read_network(file.fetch(), (1, 3), options.scale))
