"""From a checkpoint to a teacher.

The file is read as plain tensors, spandrel recognizes the architecture, and what does not restore
single images is refused.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten

import spandrel
import torch
from spandrel import ImageModelDescriptor, ModelDescriptor, ModelLoader, UnsupportedModelError
from torch import Tensor, nn

from distillkit import ModelInput, WeightsError, read_state_dict
from distillkit_spandrel.options import Options

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

    def __init__(self, descriptor: ImageModelDescriptor[nn.Module]) -> None:
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


def build(options: Options) -> Checkpoint:
    """Load the checkpoint that a recipe names, downloading it where it is missing."""
    (file,) = options.weight_files()
    return load(file.fetch(), options.scale)


def load(path: Path, scale: int | None = None) -> Checkpoint:
    """Load a checkpoint as a teacher, on the CPU and in evaluation mode.

    Args:
        path: The file.
        scale: The scale that it must have; None: any.

    Raises:
        WeightsError: Not a plain file of tensors, no architecture that spandrel knows, no restorer
            of single gray or color images, or another scale.
    """
    descriptor = _recognize(path)
    name = f"{path} - {descriptor.architecture.name} for {descriptor.purpose}"
    is_restorer = descriptor.purpose in ("SR", "Restoration")
    if not isinstance(descriptor, ImageModelDescriptor) or not is_restorer:
        raise WeightsError(
            f"{name}: only restorers of whole single images can teach (no faces, no masks)"
        )
    inputs, outputs = descriptor.input_channels, descriptor.output_channels
    if (inputs, outputs) not in ((1, 1), (3, 3)):
        raise WeightsError(
            f"{name}: takes {inputs} channels and gives {outputs}; "
            "only 3 and 3, or 1 and 1, can be used"
        )
    if scale not in (None, descriptor.scale):
        raise WeightsError(
            f"{name}: its scale is {descriptor.scale}, not {scale} as the recipe has it"
        )
    return Checkpoint(descriptor.float().eval())


def _recognize(path: Path) -> ModelDescriptor:
    """Let spandrel recognize the network of a file's tensors.

    Its own reader of files, which also opens TorchScript, is not used.
    """
    _install_extra_architectures()
    state = read_state_dict(path)
    if not isinstance(state, dict):
        kind = type(state).__name__
        raise WeightsError(f"{path} - holds a {kind}, not the named tensors of a network")
    try:
        return ModelLoader().load_from_state_dict(state)
    except UnsupportedModelError as e:
        raise WeightsError(
            f"{path} - spandrel {spandrel.__version__} knows no architecture of such tensors; "
            "spandrel_extra_arches, if installed, adds some"
        ) from e
    # A few names make an architecture; what is wrong with the other tensors may raise anything.
    except Exception as e:
        reason = f"{type(e).__name__}: {shorten(str(e), 200)}"
        raise WeightsError(f"{path} - not a checkpoint that spandrel can load: {reason}") from e


def _install_extra_architectures() -> None:
    """Make architectures with licenses of their own known, where a user has installed them."""
    if find_spec("spandrel_extra_arches"):
        import spandrel_extra_arches

        spandrel_extra_arches.install(ignore_duplicates=True)
