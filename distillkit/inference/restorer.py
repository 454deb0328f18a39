"""The public way to use a student: images in, restored images of the same kind out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from distillkit.data.luma import full_range_luma
from distillkit.data.seeds import keyed_generator
from distillkit.errors import DistillkitError, PluginError
from distillkit.inference.color import ColorFix, fix_colors
from distillkit.inference.image_types import as_array, enlarged_opacity, quantized, to_unit
from distillkit.inference.interpolation import FEWEST, MOST, mixed, plan_nodes
from distillkit.inference.student import Student, find_student, load_student
from distillkit.inference.tiling import Box, restore_padded, restored_bands
from distillkit.recipe.build import build_named, pick_device

TILE = 768
"""Side of the default tile, in pixels of the result."""
SMALLEST_TILE = 32
"""Side, in input pixels, below which tiles are not halved."""


class Restorer:
    """Restores images of any size with a distilled student.

    >>> restorer = Restorer.from_pretrained("runs/quickstart_sr4x")
    >>> restored = restorer(Image.open("photo.png"), tradeoff=0.3)

    An image of more than ``tile`` x ``tile`` input pixels is restored in overlapping tiles. Beside the input and the results, in 8
    bits where the input has 8, no more than one row of tiles is held. Where a student draws noise, the draws depend on the seed and
    on where the tile is. Out of memory, the tile is halved for good, with a warning.

    Args:
        student: what to restore with. device: where.
        tile: side in input pixels; default 768 pixels of the result. overlap: of neighboring tiles; default an eighth of the tile.
        color: ``"none"``, or the fix that gives a result the colors of its input: ``"adain"``, ``"wavelet"``.
        nodes: where more tradeoffs than this (2 to 5) are asked for at once, restore at so many and interpolate
            (:mod:`~distillkit.inference.interpolation`); by default every one is exact.
        progress: show on a terminal how many rows of an image in tiles are done.
    """

    def __init__(
        self,
        student: Student,
        device: torch.device | str = "cpu",
        *,
        tile: int | None = None,
        overlap: int | None = None,
        color: ColorFix = "none",
        nodes: int | None = None,
        progress: bool = False,
    ) -> None:
        self.progress = progress
        self.student, self.device, self.color, self.nodes = (
            student,
            torch.device(device),
            color,
            nodes,
        )
        self.tile = tile or max(TILE // self.scale, student.model.size_multiple)
        self.overlap = self.tile // 8 if overlap is None else overlap
        if self.tile < 1 or not 0 <= self.overlap < self.tile:
            raise DistillkitError(
                f"the overlap {self.overlap} must be at least 0 and below the tile's side {self.tile}"
            )
        if color not in get_args(ColorFix):
            raise DistillkitError(
                f"no such color fix: {color!r}; known are {', '.join(get_args(ColorFix))}"
            )
        if nodes is not None and not FEWEST <= nodes <= MOST:
            raise DistillkitError(f"nodes are {FEWEST} to {MOST}, not {nodes}")

    @classmethod
    def from_pretrained(
        cls, path: Path | str, device: torch.device | str | None = None, **options: Any
    ) -> Self:
        """Load the student of a run folder, of an exported folder, or of a Hub repository ``owner/name``.

        Args:
            device: default a GPU where there is one. options: ``tile``, ``overlap``, ``color`` and ``nodes`` as of the class.

        Raises:
            DistillkitError: no student there, or one that cannot be loaded; the text says why.
        """
        device = pick_device(device)
        return cls(load_student(find_student(path), device), device, **options)

    @classmethod
    def of_model(
        cls,
        name: str,
        settings: Mapping[str, Any] | None = None,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> Self:
        """A registered teacher or student as it comes, ``"mini/faithful"``: a baseline without a knob.

        Args:
            settings: the model's own options. options: ``tile``, ``overlap`` and ``color`` as of the class.

        Raises:
            DistillkitError: no such model, wrong settings, or weights that are not on this machine.
        """
        device = pick_device(device)
        return cls(Student(build_named(name, settings or {}, device), None), device, **options)

    @property
    def scale(self) -> int:
        """Output size divided by input size."""
        return self.student.model.scale

    def __call__(
        self, image: Any, tradeoff: float | Sequence[float | None] | None = None, *, seed: int = 0
    ) -> Any:
        """Restore an image, or several.

        Gray images give gray ones (the luma of the result), 16-bit ones 16 bits; opacity is kept, enlarged bicubically; EXIF
        orientation is applied.

        Args:
            image: as of :func:`~distillkit.inference.image_types.as_array`; or a list of such images, or a tensor (B, C, h, w).
            tradeoff: 0 is most realistic (default), 1 most faithful; values outside are clamped. The results of a list of
                tradeoffs share what the model encodes of the input and, for variants of two passes, the first; a pass and a
                decoding each remain, or of each node.
            seed: of a student that draws noise: equal for all images of a batch.

        Returns:
            the restored image, ``scale`` times as large, of the kind given; a list for a list, a tensor for a tensor; for a list of
            tradeoffs a list of these.

        Raises:
            DataError: not an image, one of a wrong kind, or with values that are not finite. DistillkitError: a tradeoff that the
            student does not offer, a result that is not finite, too little memory.
        """
        tradeoffs = list(tradeoff) if isinstance(tradeoff, Sequence) else [tradeoff]
        if any(t is not None and not math.isfinite(t) for t in tradeoffs):
            raise DistillkitError(f"a tradeoff is a number from 0 to 1, not {tradeoff}")
        batch = isinstance(image, list | tuple) or (isinstance(image, Tensor) and image.dim() == 4)
        results = [
            self._kept_in_kind(one, tradeoffs, seed) for one in (image if batch else [image])
        ]
        per_tradeoff: list[Any] = [list(column) for column in zip(*results, strict=True)] or [
            [] for _ in tradeoffs
        ]
        if not batch:
            per_tradeoff = [column[0] for column in per_tradeoff]
        elif isinstance(image, Tensor):
            per_tradeoff = [torch.stack(column) for column in per_tradeoff]
        return per_tradeoff if isinstance(tradeoff, Sequence) else per_tradeoff[0]

    def _kept_in_kind(self, image: Any, tradeoffs: Sequence[float | None], seed: int) -> list[Any]:
        array, back = as_array(image)
        colors = array.shape[2] - (array.shape[2] + 1) % 2
        restored = self._in_memory(array[..., :colors], tradeoffs, seed)
        opacity = enlarged_opacity(array[..., colors:], self.scale)
        return [
            back(np.concatenate([one, opacity], axis=2) if opacity.size else one)
            for one in _taken(restored)
        ]

    def _in_memory(
        self, lq: np.ndarray, tradeoffs: Sequence[float | None], seed: int
    ) -> list[np.ndarray]:
        """:meth:`_restore`, with ever smaller tiles as long as memory runs out."""
        height, width, channels = lq.shape
        shape = height * self.scale, width * self.scale, channels
        try:
            results = [np.empty(shape, lq.dtype) for _ in tradeoffs]
        except MemoryError as e:
            raise DistillkitError(
                f"out of memory: {len(tradeoffs)} result(s) of {shape[1]} x {shape[0]} pixels do not fit"
            ) from e
        while True:
            try:
                self._restore(lq, results, tradeoffs, seed)
                return results
            except (MemoryError, RuntimeError) as e:
                if not _out_of_memory(e):
                    raise
            tried, smallest = (
                min(self.tile, math.isqrt(self._padded_area(lq))),
                max(SMALLEST_TILE, self.student.model.size_multiple),
            )
            if tried <= smallest:
                what = f"{width} x {height} pixels, in tiles of at most {self.tile} x {self.tile}"
                raise DistillkitError(
                    f"out of memory: {what}, are too much for {self.device}, and smaller tiles would not help"
                )
            smaller = max(tried // 2, smallest)
            self.overlap = self.overlap * smaller // self.tile
            self.tile = smaller
            what = f"out of memory on {self.device}: going on with tiles of {smaller} input pixels"
            warnings.warn(what, RuntimeWarning, stacklevel=4)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _restore(
        self,
        lq: np.ndarray,
        results: Sequence[np.ndarray],
        tradeoffs: Sequence[float | None],
        seed: int,
    ) -> None:
        """``lq`` (h, w, C), C 1 or 3, uint8, uint16 or float in [0, 1], into ``results`` (scale h, scale w, C), one a tradeoff."""
        height, width, channels = lq.shape
        model = self.student.model
        self.student.check(tradeoffs)
        restored_at, weights = plan_nodes(tradeoffs, self.nodes if self.student.variant else None)

        def restore(box: Box) -> Tensor:
            top, bottom, left, right = box
            generator = keyed_generator(seed, "restore", top, left)
            piece = to_unit(lq[top:bottom, left:right]).expand(-1, 3, -1, -1).to(self.device)
            return restore_padded(
                lambda x: self._on_device(x, restored_at, generator),
                piece,
                model.scale,
                model.size_multiple,
            )

        whole = self._padded_area(lq) <= self.tile**2
        tile, overlap = (max(height, width), 0) if whole else (self.tile, self.overlap)
        bar = tqdm(
            total=height,
            unit="row",
            leave=False,
            disable=None if self.progress and not whole else True,
        )
        with self.student.ready(restored_at), bar:
            for top, band in restored_bands(
                restore, height, width, self.scale, tile=tile, overlap=overlap
            ):
                if not math.isfinite(band.sum()):
                    raise DistillkitError("the model gave values that are not finite")
                rows = full_range_luma(band) if channels == 1 else band
                for result, of_nodes in zip(results, weights, strict=True):
                    result[top : top + rows.shape[2]] = quantized(mixed(rows, of_nodes), lq.dtype)
                bar.update(band.shape[2] // self.scale)
        for result in results:
            fix_colors(result, lq, self.color)

    def _padded_area(self, lq: np.ndarray) -> int:
        """Input pixels that the model sees of ``lq`` in one piece."""
        size_multiple = self.student.model.size_multiple
        return math.prod(-(-side // size_multiple) * size_multiple for side in lq.shape[:2])

    def _on_device(
        self, lq: Tensor, tradeoffs: Sequence[float | None], generator: torch.Generator
    ) -> Tensor:
        try:
            return torch.cat(self.student.restore_each(lq, tradeoffs, generator)).float().cpu()
        except DistillkitError:
            raise
        except Exception as e:
            if _out_of_memory(e):
                raise
            what = f"{type(self.student.model).__name__} failed on an input of {lq.shape[3]} x {lq.shape[2]} pixels"
            raise PluginError(f"{what}: {type(e).__name__}: {e}") from e


def _taken(results: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Each result in turn, so that none is kept longer than it is needed."""
    while results:
        yield results.pop(0)


def _out_of_memory(error: BaseException) -> bool:
    """On a GPU, in Python or NumPy, or in torch's allocator on the CPU, which has no exception of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(
        error
    )
