"""The public way to use a student: images in, restored images of the same kind out."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from distillkit.data.images import read_image, to_pil
from distillkit.data.seeds import keyed_generator
from distillkit.errors import DataError
from distillkit.inference.student import Student, load_student
from distillkit.inference.tiling import restore_tiled

ImageLike = TypeVar("ImageLike", Image.Image, np.ndarray, Tensor)


class Restorer:
    """Restores images of any size with a distilled student.

    >>> restorer = Restorer.from_pretrained("runs/quickstart_sr4x")
    >>> restored = restorer(Image.open("photo.png"), tradeoff=0.3)

    Args:
        student: what to restore with. device: where. tile: side, in input pixels, above which an image is restored in overlapping
        tiles. overlap: of neighbouring tiles, in input pixels.
    """

    def __init__(self, student: Student, device: torch.device | str = "cpu", tile: int = 192, overlap: int = 16) -> None:
        self.student, self.device = student, torch.device(device)
        self.tile, self.overlap = tile, overlap

    @classmethod
    def from_pretrained(cls, path: Path | str, device: torch.device | str | None = None) -> Restorer:
        """Load the student of a run folder or of an exported ``student`` folder.

        Raises:
            DistillkitError: no student there, or one that cannot be loaded; the text says why.
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        return cls(load_student(path, device), device)

    @property
    def scale(self) -> int:
        """Output size divided by input size."""
        return self.student.model.scale

    def __call__(self, image: ImageLike, tradeoff: float = 0.0, *, seed: int = 0) -> ImageLike:
        """Restore one image.

        Args:
            image: a PIL image; an array (h, w, 3) or (h, w), uint8 or float in [0, 1]; or a tensor (3, h, w) or (B, 3, h, w), float
                in [0, 1].
            tradeoff: 0 is most realistic, 1 most faithful; values outside are clamped.
            seed: of a student that draws noise.

        Returns:
            the restored image, ``scale`` times as large, of the kind given.

        Raises:
            DataError: not such an image, or one with values that are not finite.
        """
        if isinstance(image, Tensor):
            return self._tensor(image, tradeoff, seed)
        if isinstance(image, np.ndarray):
            return self._array(image, tradeoff, seed)
        return to_pil(self.restore(read_image(image)[None], tradeoff, seed)[0])

    def restore(self, lq: Tensor, tradeoff: float = 0.0, seed: int = 0) -> Tensor:
        """(1, 3, h, w) in [-1, 1] -> (1, 3, scale h, scale w) in [-1, 1], on the CPU."""

        def restore(piece: Tensor) -> Tensor:
            return self.student.restore(piece.to(self.device), tradeoff, keyed_generator(seed, "restore")).float().cpu()

        model = self.student.model
        return restore_tiled(restore, lq, model.scale, tile=self.tile, overlap=self.overlap, multiple=model.multiple)

    def _tensor(self, image: Tensor, tradeoff: float, seed: int) -> Tensor:
        if image.dim() not in (3, 4) or image.shape[-3] != 3 or not image.is_floating_point():
            raise DataError(f"expected a float tensor (3, h, w) or (B, 3, h, w) in [0, 1], got {image.dtype} {tuple(image.shape)}")
        if not torch.isfinite(image).all():
            raise DataError("the image has values that are not finite")
        batch = image if image.dim() == 4 else image[None]
        restored = torch.cat([self.restore(one[None].float().cpu() * 2 - 1, tradeoff, seed) for one in batch])
        restored = ((restored + 1) / 2).to(image)
        return restored if image.dim() == 4 else restored[0]

    def _array(self, image: np.ndarray, tradeoff: float, seed: int) -> np.ndarray:
        array = np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else image
        if (
            array.ndim != 3
            or array.shape[-1] != 3
            or array.dtype.kind not in "uf"
            or (array.dtype.kind == "u" and array.dtype != np.uint8)
        ):
            raise DataError(f"expected an array (h, w, 3) or (h, w), uint8 or float in [0, 1], got {image.dtype} {image.shape}")
        if array.dtype == np.uint8:
            return np.asarray(self(Image.fromarray(array), tradeoff, seed=seed))
        restored = self._tensor(torch.from_numpy(array).float().permute(2, 0, 1), tradeoff, seed)
        return restored.permute(1, 2, 0).numpy().astype(image.dtype)
