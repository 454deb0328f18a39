"""The public way to use a student: images in, restored images of the same kind out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from distillkit.console import progress_bar
from distillkit.data.luma import full_range_luma
from distillkit.data.seeds import keyed_generator
from distillkit.diffusion.model import ModelInput
from distillkit.diffusion.padding import restore_padded
from distillkit.errors import DistillkitError, PluginError
from distillkit.inference.color import fix_colors
from distillkit.inference.image_types import as_array, quantized, to_unit
from distillkit.inference.interpolation import MAX_NODES, MIN_NODES, mix, plan_interpolation
from distillkit.inference.opacity import enlarged_opacity, fill_hidden_colors, split_opacity
from distillkit.inference.precision import require_bfloat16
from distillkit.inference.student import Student, find_student, load_student
from distillkit.inference.tiling import Box, default_tile, padded_area, plan_tiles, restored_bands
from distillkit.inference.tradeoff_map import is_map, pad_map, read_map
from distillkit.recipe.build import build_named_model, pick_device
from distillkit.recipe.schema import ColorFix
from distillkit.tradeoff import REALISTIC

SMALLEST_TILE = 32
"""Side, in input pixels, below which tiles are not halved."""


@dataclass(frozen=True)
class _Request:
    """How images are restored in one call."""

    tradeoffs: list[float]
    """One result for each."""
    seed: int
    caption: str | None
    tradeoff_map: Any = None
    """A tradeoff for each pixel, for one result. It overrides ``tradeoffs``, which then has one
    entry."""


class Restorer:
    """Restores images of any size with a distilled student.

    >>> restorer = Restorer.from_pretrained("runs/quickstart")
    >>> restored = restorer(Image.open("photo.png"), tradeoff=0.3)

    An image of more than ``tile ** 2`` input pixels is restored in overlapping tiles of at most
    that area. Memory holds the input and the results, in 8 bits where the input has 8, and one row
    of tiles. Where a student draws noise, the draws depend on the seed and on the tile's position.
    Where memory runs out, the tile is halved for all further images, with a warning.

    Args:
        student: What to restore with.
        device: The device that the student is on.
        tile: Side of a square tile in input pixels; default 768 pixels of the result.
        overlap: The overlap of neighboring tiles; default an eighth of the tile.
        color_fix: ``"none"``, or the fix that gives a result the colors of its input: ``"adain"``,
            ``"wavelet"``; default: the one that the student was evaluated with.
        interpolation_nodes: A call with more tradeoffs than this (2 to 5) restores at this many,
            equally spaced, and interpolates the rest (:mod:`~distillkit.inference.interpolation`);
            by default every one is exact.
        progress: Show on a terminal how many rows of an image in tiles are done.
        on_tile: Called after each tile, with how many of the image's tiles are done and how many
            there are; an exception that it raises ends the call.

    Raises:
        DistillkitError: An option is out of range.
    """

    def __init__(
        self,
        student: Student,
        device: torch.device | str = "cpu",
        *,
        tile: int | None = None,
        overlap: int | None = None,
        color_fix: ColorFix | None = None,
        interpolation_nodes: int | None = None,
        progress: bool = False,
        on_tile: Callable[[int, int], None] | None = None,
    ) -> None:
        self.student = student
        self.device = torch.device(device)
        self.tile = tile or default_tile(self.scale, student.model.size_multiple)
        self.overlap = self.tile // 8 if overlap is None else overlap
        self.color_fix = color_fix or student.color_fix
        self.interpolation_nodes = interpolation_nodes
        self.progress = progress
        self.on_tile = on_tile
        self._in_bfloat16 = False
        self._check_options()

    def _check_options(self) -> None:
        if self.tile < 1 or not 0 <= self.overlap < self.tile:
            raise DistillkitError(
                f"the overlap {self.overlap} must be at least 0 and below the tile's side "
                f"{self.tile}"
            )
        if self.color_fix not in get_args(ColorFix):
            known = ", ".join(get_args(ColorFix))
            raise DistillkitError(f"no such color fix: {self.color_fix!r}; known are {known}")
        nodes = self.interpolation_nodes
        if nodes is not None and not MIN_NODES <= nodes <= MAX_NODES:
            raise DistillkitError(
                f"interpolation nodes are {MIN_NODES} to {MAX_NODES}, not {nodes}"
            )

    @classmethod
    def from_pretrained(
        cls, path: Path | str, device: torch.device | str | None = None, **options: Any
    ) -> Self:
        """Load the student of a run, an export, a plugin or a Hub repository.

        Args:
            path: A folder, ``plugin/name`` of a trained student, or ``owner/name`` on the Hub.
            device: Default a GPU where there is one.
            options: The options of the class.

        Raises:
            DistillkitError: No student there, or one that cannot be loaded; the text says why.
        """
        device = pick_device(device)
        return cls(load_student(find_student(path), device), device, **options)

    @classmethod
    def from_model(
        cls,
        name: str,
        settings: Mapping[str, Any] | None = None,
        device: torch.device | str | None = None,
        **options: Any,
    ) -> Self:
        """Build a registered teacher or student that is not distilled: it has a fixed tradeoff.

        Args:
            name: The name of the model, ``"mini/faithful"``.
            settings: The model's own options.
            device: Default a GPU where there is one.
            options: The options of the class.

        Raises:
            DistillkitError: No such model, wrong settings, or weights that are not on this machine.
        """
        device = pick_device(device)
        model = build_named_model(name, settings or {}, device)
        return cls(Student(model, None), device, **options)

    @property
    def scale(self) -> int:
        """Output size divided by input size."""
        return self.student.model.scale

    def __call__(
        self,
        image: Any,
        tradeoff: Any = None,
        *,
        seed: int = 0,
        caption: str | None = None,
    ) -> Any:
        """Restore an image, or several.

        Gray images give gray ones (the luma of the result), 16-bit ones 16 bits; opacity is kept,
        enlarged bicubically; EXIF orientation is applied.

        Args:
            image: As of :func:`~distillkit.inference.image_types.as_array`; or a list of such
                images, or a tensor (B, C, h, w).
            tradeoff: A number, a list of numbers or a map; 0 is most realistic (default), 1 most
                faithful. The results of a list share the encoding of the input and, for variants
                of two passes, the first pass; each needs one pass and one decoding of its own. A
                map has a tradeoff for each pixel: an array or a tensor (h, w) of numbers, or a gray
                PIL image, black for 0 and white for 1 (:mod:`~distillkit.inference.tradeoff_map`).
            seed: The seed of a student that draws noise: equal for all images of a batch.
            caption: A text about the image (or about all of them), for a student that takes texts.

        Returns:
            The restored image, ``scale`` times as large, of the kind given; a list for a list, a
            tensor for a tensor; for a list of tradeoffs a list of these.

        Raises:
            DataError: Not an image, one of a wrong kind, or with values that are not finite.
            DistillkitError: A tradeoff outside [0, 1] or one that the student does not offer, a
                result that is not finite, too little memory.
        """
        request = self._make_request(tradeoff, seed, caption)
        batched = isinstance(image, list | tuple) or _is_batch(image)
        results = []
        # no comprehension: its frame would count in the warning's stack level
        for one in image if batched else [image]:
            results.append(self._restore_image(one, request))
        per_tradeoff = (
            _group_by_tradeoff(results, len(request.tradeoffs)) if batched else results[0]
        )
        if _is_batch(image):
            per_tradeoff = [torch.stack(restored) for restored in per_tradeoff]
        return per_tradeoff if isinstance(tradeoff, list | tuple) else per_tradeoff[0]

    def compute_in_bfloat16(self) -> None:
        """Compute in bfloat16 from now on: faster, with rounded activations.

        Weights stay in float32; those of convolutions go into channels-last order.

        Raises:
            DistillkitError: The device does not compute in bfloat16.
        """
        require_bfloat16(self.device)
        self._in_bfloat16 = True
        model: Any = self.student.model
        if isinstance(model, nn.Module):
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def check_tradeoff(self, tradeoff: Any) -> None:
        """Raise what a call with this tradeoff would raise, before any image is read.

        Raises:
            DistillkitError: A tradeoff outside [0, 1], or one that the student does not offer.
        """
        self._make_request(tradeoff, seed=0, caption=None)

    def merged_at(self, tradeoff: Any) -> AbstractContextManager[None]:
        """Return a context in which one tradeoff is merged into the weights, for speed.

        Inside, the student restores at this tradeoff only. Several tradeoffs or a map are checked,
        but not merged.

        Args:
            tradeoff: As of a call.

        Raises:
            DistillkitError: As :meth:`check_tradeoff`, before the context is entered.
        """
        request = self._make_request(tradeoff, seed=0, caption=None)
        if request.tradeoff_map is not None:
            return nullcontext()
        return self.student.merged_at(request.tradeoffs)

    def _make_request(self, tradeoff: Any, seed: int, caption: str | None) -> _Request:
        wanted = tradeoff if isinstance(tradeoff, list | tuple) else [tradeoff]
        if not any(is_map(t) for t in wanted):
            return _Request([self.student.resolve(t) for t in wanted], seed, caption)
        if len(wanted) > 1:
            raise DistillkitError(
                "a tradeoff map gives one result; it cannot stand in a list: restore by each map "
                "in a call of its own"
            )
        if self.student.variant is None:
            raise DistillkitError(
                f"this model has a fixed tradeoff, {self.student.fixed_tradeoff:g}: it cannot "
                "restore by a map"
            )
        return _Request([REALISTIC], seed, caption, tradeoff_map=wanted[0])

    def _restore_image(self, image: Any, request: _Request) -> list[Any]:
        """Restore one image: a list of images of the same type, one for each tradeoff."""
        array, back = as_array(image)
        colors, opacity = split_opacity(array)
        lq = fill_hidden_colors(colors, opacity)
        restored = self._restore_in_memory(lq, request)
        opacity = enlarged_opacity(opacity, self.scale)
        images = []
        for pixels in _pop_each(restored):
            if opacity.size:
                pixels = np.concatenate([pixels, opacity], axis=2)
            images.append(back(pixels))
        return images

    def _restore_in_memory(self, lq: np.ndarray, request: _Request) -> list[np.ndarray]:
        """Restore an array; halve the tile and try again while memory runs out.

        Args:
            lq: As of :meth:`_restore_into`.
            request: The tradeoffs, seed and caption.
        """
        results = self._allocate_results(lq, len(request.tradeoffs))
        while True:
            try:
                self._restore_into(results, lq, request)
                return results
            except (MemoryError, RuntimeError) as e:
                if not _is_out_of_memory(e):
                    raise
            # outside of the handler, which would keep the failed tile's tensors alive
            self._halve_tile(lq)

    def _allocate_results(self, lq: np.ndarray, count: int) -> list[np.ndarray]:
        height, width, channels = lq.shape
        shape = height * self.scale, width * self.scale, channels
        try:
            return [np.empty(shape, lq.dtype) for _ in range(count)]
        except MemoryError as e:
            raise DistillkitError(
                f"out of memory: {count} result(s) of {shape[1]} x {shape[0]} pixels do not fit"
            ) from e

    def _halve_tile(self, lq: np.ndarray) -> None:
        """Halve the tile for this and all further images, with a warning.

        Raises:
            DistillkitError: The tile is at its minimum.
        """
        tried = min(self.tile, math.isqrt(self._padded_area(lq)))
        smallest = max(SMALLEST_TILE, self.student.model.size_multiple)
        if tried <= smallest:
            height, width, _ = lq.shape
            raise DistillkitError(
                f"out of memory: {width} x {height} pixels, in tiles of at most {self.tile} x "
                f"{self.tile}, are too much for {self.device}, and smaller tiles would not help"
            )
        smaller = max(tried // 2, smallest)
        self.overlap = self.overlap * smaller // self.tile
        self.tile = smaller
        warnings.warn(
            f"out of memory on {self.device}: continuing with tiles of {smaller} input pixels",
            RuntimeWarning,
            stacklevel=5,  # the caller of the restorer
        )
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _restore_into(
        self, results: Sequence[np.ndarray], lq: np.ndarray, request: _Request
    ) -> None:
        """Restore an image into arrays.

        Args:
            results: (scale h, scale w, C), one for each tradeoff.
            lq: (h, w, C), C 1 or 3, uint8, uint16 or float in [0, 1].
            request: The tradeoffs, seed and caption.
        """
        height, width, channels = lq.shape
        if request.tradeoff_map is not None:
            request = self._fit_map(request, height, width)
        nodes = None if self.student.variant is None else self.interpolation_nodes
        restored_at, weights = plan_interpolation(request.tradeoffs, nodes)
        # A map's tradeoffs are set layer by layer, which merged weights would prevent.
        merged_at = [] if request.tradeoff_map is not None else restored_at
        restore_box = self._box_restorer(lq, replace(request, tradeoffs=restored_at))
        grid = plan_tiles(
            height,
            width,
            tile=self.tile,
            overlap=self.overlap,
            size_multiple=self.student.model.size_multiple,
        )
        tiles = len(grid.rows) * len(grid.columns)
        bands = restored_bands(self._report_tiles(restore_box, tiles), grid, self.scale)
        in_one_piece = tiles == 1
        with (
            self.student.merged_at(merged_at),
            self._progress_bar(height, hidden=in_one_piece) as bar,
        ):
            for top, band in bands:
                _refuse_non_finite(band)
                rows = full_range_luma(band) if channels == 1 else band
                bottom = top + rows.shape[2]
                for result, node_weights in zip(results, weights, strict=True):
                    result[top:bottom] = quantized(mix(rows, node_weights), lq.dtype)
                bar.update(band.shape[2] // self.scale)
        for result in results:
            fix_colors(result, lq, self.color_fix)

    def _fit_map(self, request: _Request, height: int, width: int) -> _Request:
        """Bring a map to the image's size; one that is the same everywhere becomes a number."""
        tradeoffs = read_map(request.tradeoff_map, height, width)
        lowest = float(tradeoffs.min())
        if lowest == float(tradeoffs.max()):
            return replace(request, tradeoffs=[lowest], tradeoff_map=None)
        return replace(request, tradeoff_map=tradeoffs)

    def _box_restorer(self, lq: np.ndarray, request: _Request) -> Callable[[Box], Tensor]:
        """Return a function from a box of ``lq`` to its results, (K, 3, scale h, scale w)."""
        model = self.student.model

        def restore_box(box: Box) -> Tensor:
            top, bottom, left, right = box
            generator = keyed_generator(request.seed, "restore", top, left)
            pixels = to_unit(lq[top:bottom, left:right]).expand(-1, 3, -1, -1)
            inputs = ModelInput(pixels.to(self.device), [request.caption])

            box_request = request
            if request.tradeoff_map is not None:
                cut = request.tradeoff_map[..., top:bottom, left:right]
                box_request = replace(request, tradeoff_map=cut)

            def restore(padded: ModelInput) -> Tensor:
                return self._restore_on_device(padded, box_request, generator)

            return restore_padded(restore, inputs, model.scale, model.size_multiple)

        return restore_box

    def _report_tiles(
        self, restore_box: Callable[[Box], Tensor], tiles: int
    ) -> Callable[[Box], Tensor]:
        """Wrap ``restore_box`` to call ``on_tile`` after each box.

        Args:
            restore_box: Restores a box.
            tiles: The number of all boxes.
        """
        done = 0

        def restore_and_report(box: Box) -> Tensor:
            nonlocal done
            pixels = restore_box(box)
            done += 1
            if self.on_tile is not None:
                self.on_tile(done, tiles)
            return pixels

        return restore_and_report

    def _progress_bar(self, rows: int, hidden: bool) -> tqdm[Any]:
        if hidden or not self.progress:
            return tqdm(disable=True)
        return progress_bar(total=rows, unit="row", leave=False)

    def _padded_area(self, lq: np.ndarray) -> int:
        """Return the area of ``lq`` padded to the model's ``size_multiple``, in pixels."""
        height, width, _ = lq.shape
        return padded_area(height, width, self.student.model.size_multiple)

    def _restore_tensors(
        self, inputs: ModelInput, request: _Request, generator: torch.Generator
    ) -> list[Tensor]:
        if request.tradeoff_map is None:
            return self.student.restore_each(inputs, request.tradeoffs, generator)
        tradeoffs = pad_map(request.tradeoff_map, inputs.lq).to(self.device)
        return [self.student.restore_by_map(inputs, tradeoffs, generator)]

    def _restore_on_device(
        self, inputs: ModelInput, request: _Request, generator: torch.Generator
    ) -> Tensor:
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self._in_bfloat16)
        try:
            with autocast:
                images = self._restore_tensors(inputs, request, generator)
            return torch.cat(images).float().cpu()
        except DistillkitError:
            raise
        except Exception as e:
            if _is_out_of_memory(e):
                raise
            height, width = inputs.lq.shape[-2:]
            model = type(self.student.model).__name__
            raise PluginError(
                f"{model} failed on an input of {width} x {height} pixels: {type(e).__name__}: {e}"
            ) from e


def _refuse_non_finite(band: Tensor) -> None:
    # A sum with a nan or an inf in it is not finite; it needs no mask of the band's size.
    if not math.isfinite(band.sum()):
        raise DistillkitError("the model's output has values that are not finite")


def _is_batch(image: Any) -> bool:
    return isinstance(image, Tensor) and image.dim() == 4


def _group_by_tradeoff(results: Sequence[list[Any]], count: int) -> list[Any]:
    """Turn each image's results at ``count`` tradeoffs into each tradeoff's results."""
    return [[images[k] for images in results] for k in range(count)]


def _pop_each(results: list[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield and remove each result in turn, so that its memory is freed early."""
    while results:
        yield results.pop(0)


def _is_out_of_memory(error: BaseException) -> bool:
    """Recognize a lack of memory on a GPU, in Python, in NumPy, and in torch on the CPU.

    Torch's allocator on the CPU has no exception of its own.
    """
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or "DefaultCPUAllocator" in str(error)
