"""Make tradeoff maps by plugins: faithful where their masks find something in an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from distillkit.errors import DistillkitError, PluginError
from distillkit.files.images import to_float
from distillkit.inference.image_types import OneImage, as_array
from distillkit.inference.opacity import fill_hidden_colors, split_opacity
from distillkit.plugins.descriptors import Spec
from distillkit.plugins.manager import load_plugins
from distillkit.plugins.stdout import divert_stdout
from distillkit.tradeoff import FAITHFUL, REALISTIC, check_tradeoff

FindMask = Callable[[np.ndarray], Any]
"""The function that a plugin's MaskSpec builds: an image (h, w, 3), float32 in [0, 1], to a mask
(h, w) in [0, 1], 1 where something is found."""

FEATHER = 0.01
"""A share of the image's longer side: the map is faithful this far around what is found, and falls
to the tradeoff elsewhere over the same distance again."""


class FaithfulMap:
    """Makes tradeoff maps of images: 1, most faithful, where something is found.

    >>> faithful = FaithfulMap(["faces", "text"], elsewhere=0.2)
    >>> restored = restorer(photo, tradeoff=faithful(photo))

    Args:
        names: Masks of plugins, as ``distillkit plugins`` lists them.
        elsewhere: The tradeoff where nothing is found.

    Raises:
        PluginError: No plugin offers such a mask, or it cannot be built.
        DistillkitError: No name, or a tradeoff elsewhere that leaves nothing to be kept.
    """

    def __init__(self, names: Sequence[str], elsewhere: float = REALISTIC) -> None:
        self.elsewhere = check_tradeoff(elsewhere)
        if self.elsewhere == FAITHFUL:
            raise DistillkitError(
                "all of the image is most faithful already, at tradeoff 1; choose a lower tradeoff "
                "for the rest of it"
            )
        if not names:
            raise DistillkitError('name what is kept faithful, such as "faces" or "text"')
        self._masks = [_Mask(_find_spec(name)) for name in dict.fromkeys(names)]

    def __call__(self, image: OneImage) -> Image.Image:
        """Make the map of one image.

        Args:
            image: As of a :class:`~distillkit.Restorer`; one, no batch.

        Returns:
            A gray picture of the image's size, upright, black for 0 and white for 1. The restorer
            takes it as a tradeoff, also when it was saved, painted over and read again.
        """
        pixels = _as_rgb(image)
        found = np.maximum.reduce([mask(pixels) for mask in self._masks])
        tradeoffs = self.elsewhere + (FAITHFUL - self.elsewhere) * _feathered(found)
        return Image.fromarray(_to_gray(tradeoffs))

    def found_something(self, tradeoff_map: Image.Image) -> bool:
        """Whether a map of :meth:`__call__` has any pixel above the tradeoff elsewhere."""
        return bool((np.asarray(tradeoff_map) > _to_gray(np.float32(self.elsewhere))).any())

    @property
    def nothing_found_note(self) -> str:
        """The note for a user whose image has nothing to be kept faithful."""
        rest = f"all of it is restored at tradeoff {self.elsewhere:g}"
        return f"nothing to keep faithful is found; {rest}"


def read_mask(mask: Any, height: int, width: int) -> np.ndarray:
    """Check the mask that a plugin returned, and convert it to an array (h, w), float32.

    Args:
        mask: Anything that NumPy makes an array of.
        height: The height of the image.
        width: The width of the image.

    Raises:
        PluginError: Not numbers, another shape than the image's, or values outside [0, 1].
    """
    try:
        values = np.asarray(mask, dtype=np.float32)
    except (TypeError, ValueError) as e:
        raise PluginError(f"the mask is a {type(mask).__name__}, not an array of numbers") from e
    if values.shape != (height, width):
        raise PluginError(f"the mask has the shape {values.shape}, expected {(height, width)}")
    # A comparison with nan is false, so nan is refused here as well.
    if not ((values >= 0) & (values <= 1)).all():
        low, high = values.min(), values.max()
        raise PluginError(f"the mask lies in [{low:.3g}, {high:.3g}], expected [0, 1]")
    return values


class _Mask:
    """A plugin's mask, with errors that name the plugin."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        try:
            self._find = spec.create(spec.config())
        except Exception as e:
            raise PluginError(f"{spec} cannot be built: {_reason(e)}") from e

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        height, width, _ = pixels.shape
        try:
            with divert_stdout():
                found = self._find(pixels)
            return read_mask(found, height, width)
        except Exception as e:
            where = f"an image of {width} x {height} pixels"
            raise PluginError(f"{self.spec} failed on {where}: {_reason(e)}") from e


def _reason(error: Exception) -> str:
    if isinstance(error, DistillkitError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _find_spec(name: str) -> Spec:
    plugins = load_plugins()
    try:
        return plugins.find("masks", name)
    except PluginError as e:
        if plugins.specs("masks"):
            raise
        advice = (
            plugins.explain_unavailable("masks")
            or "install one that does, such as distillkit-masks: pip install 'distillkit[masks]'"
        )
        raise PluginError(f"{e}; {advice}") from e


def _as_rgb(image: OneImage) -> np.ndarray:
    """Read an image as it is restored, in three channels: (h, w, 3), float32 in [0, 1]."""
    array, _ = as_array(image)
    seen = fill_hidden_colors(*split_opacity(array))
    unit = ((to_float(seen) + 1) / 2).clamp(0, 1)
    return unit.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()


def _to_gray(tradeoffs: np.ndarray | np.float32) -> np.ndarray:
    return np.asarray(255 * tradeoffs).round().astype(np.uint8)


def _feathered(mask: np.ndarray) -> np.ndarray:
    """Dilate a mask (h, w) and soften its border; no pixel of the mask itself is lowered."""
    reach = max(1, round(FEATHER * max(mask.shape)))
    side = 2 * reach + 1
    # The maximum and the mean over a square are separable: down the columns, then along the rows.
    passes = (((side, 1), (reach, 0)), ((1, side), (0, reach)))
    soft = torch.from_numpy(mask)[None, None]
    for window, padding in passes:
        soft = F.max_pool2d(soft, window, stride=1, padding=padding)
    for window, padding in passes:
        soft = F.avg_pool2d(soft, window, stride=1, padding=padding, count_include_pad=False)
    return soft[0, 0].clamp(0, 1).numpy()
