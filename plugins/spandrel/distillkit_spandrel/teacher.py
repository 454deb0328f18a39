"""From a checkpoint to a teacher: read as plain tensors, recognized by spandrel, refused if it is no one-image restorer."""

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


class Checkpoint(nn.Module):
    """An output teacher: spandrel's call of a network, in float32 and without gradient.

    ``size_multiple`` is what the network divides its sides by; a minimum or a square that it asks for as well, spandrel pads to and
    crops from.

    Args:
        found: of 3 channels; or of 1, which restores red, green and blue as three gray images.
    """

    nfe = 1

    def __init__(self, found: ImageModelDescriptor[nn.Module]) -> None:
        super().__init__()
        self.network, self.found = found.model, found
        self.scale, self.size_multiple = found.scale, found.size_requirements.multiple_of

    def restore(self, inputs: ModelInput, generator: torch.Generator | None = None) -> Tensor:
        """Images (B, 3, h, w) in [-1, 1] -> (B, 3, scale h, scale w) in [-1, 1]; a network that draws does so by ``generator``."""
        lq = inputs.lq
        images = (lq.float() * 0.5 + 0.5).reshape(-1, self.found.input_channels, *lq.shape[-2:])
        seed = int(torch.randint(2**62, (), generator=generator))
        with (
            torch.random.fork_rng([lq.device] if lq.is_cuda else []),
            torch.autocast(lq.device.type, enabled=False),
        ):
            torch.manual_seed(seed)
            restored = [
                self.found(image) for image in images.split(1)
            ]  # spandrel promises to take one at a time
        joined = (
            torch.cat(restored) * 2 - 1
        )  # outside of spandrel's inference mode, or else no loss could keep it for its backward
        return joined.reshape(len(lq), 3, *joined.shape[-2:])


def build(options: Options) -> Checkpoint:
    """Load the checkpoint that a recipe names, downloading it where it is missing."""
    (file,) = options.weight_files()
    return load(file.fetch(), options.scale)


def load(path: Path, scale: int | None = None) -> Checkpoint:
    """The teacher of a checkpoint, on the CPU and in evaluation mode.

    Args:
        scale: what it has to be; None: any.

    Raises:
        WeightsError: not a plain file of tensors, of no architecture that spandrel knows, no restorer of single gray or color
            images, or of another scale.
    """
    found = _recognised(path)
    what = f"{path} - {found.architecture.name} for {found.purpose}"
    if not isinstance(found, ImageModelDescriptor) or found.purpose not in ("SR", "Restoration"):
        raise WeightsError(
            f"{what}: only restorers of whole single images can teach (no faces, no masks)"
        )
    if (channels := (found.input_channels, found.output_channels)) not in ((1, 1), (3, 3)):
        raise WeightsError(
            f"{what}: takes {channels[0]} channels and gives {channels[1]}; only 3 and 3, or 1 and 1, can be used"
        )
    if scale not in (None, found.scale):
        raise WeightsError(f"{what}: its scale is {found.scale}, not {scale} as the recipe has it")
    return Checkpoint(found.float().eval())


def _recognised(path: Path) -> ModelDescriptor:
    """What spandrel makes of the tensors in a file; its own reader of files, which also opens TorchScript, is left out."""
    if find_spec(
        "spandrel_extra_arches"
    ):  # architectures under licenses of their own, for those who installed them
        import spandrel_extra_arches

        spandrel_extra_arches.install(ignore_duplicates=True)
    state = read_state_dict(path)
    if not isinstance(state, dict):
        raise WeightsError(
            f"{path} - holds a {type(state).__name__}, not the named tensors of a network"
        )
    try:
        return ModelLoader().load_from_state_dict(state)
    except UnsupportedModelError as e:
        known = f"spandrel {spandrel.__version__} knows no architecture of such tensors"
        raise WeightsError(
            f"{path} - {known}; spandrel_extra_arches, if installed, adds some"
        ) from e
    except Exception as e:  # an architecture is recognized by a few names; what is wrong with the rest shows in any way
        why = f"{type(e).__name__}: {shorten(str(e), 200)}"
        raise WeightsError(f"{path} - not a checkpoint that spandrel can load: {why}") from e
