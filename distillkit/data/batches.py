"""Training batches of random crops, each a function of seed, stage, step and micro-batch alone.

So a resumed run, or another process, gets the batches that an uninterrupted run would have had.
"""

from __future__ import annotations

import copy
import time
from collections import defaultdict, deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from distillkit.data.crops import (
    CropBox,
    FullImage,
    check_sizes,
    cut_pair,
    draw_box,
    draw_side,
    shrink_crop,
)
from distillkit.data.image_cache import ImageCache
from distillkit.data.sampling import interleave, shuffled
from distillkit.data.seeds import keyed_generator
from distillkit.data.sources import BadImageError, Example, Source, check_bad_fraction
from distillkit.errors import DataError

_AHEAD = 2
"""Batches prepared ahead, by the thread or by each worker."""


@dataclass(frozen=True)
class Batch:
    """The crops of one micro-batch.

    Either all have a low-quality image of their own, or none has; likewise a clean one.
    """

    gt: Tensor | None
    """(B, 3, crop, crop) in [-1, 1]; None: the source has no ground truth."""
    lq: Tensor | None
    """(B, 3, crop / scale, crop / scale) in [-1, 1]; None: the recipe's degradation makes it."""
    ids: list[str]
    step: int = 0
    """The step that keys its draws; with ``cycle_steps`` the first step that has this batch."""
    captions: Sequence[str | None] | None = None
    """One for each image; None where no source of the batch has captions."""
    full_images: Sequence[FullImage] | None = None
    """The image that each crop was cut from, with ``BatchSettings.full_images``."""
    cache_key: str = ""
    """A hash of all that the batch was made from; empty where nothing is cached."""
    box: CropBox | None = None
    """Where a crop of the batch lies in the batch's images; None: the batch as it was made."""

    def crop(self, box: CropBox, scale: int, cache_key: str) -> Batch:
        """Cut the same crop out of every image.

        Args:
            box: In low-quality pixels.
            scale: Size of the clean images divided by that of the low-quality ones.
            cache_key: The cache key of the new batch.
        """
        assert self.lq is not None, "a batch is cropped after it is degraded"
        gt = None if self.gt is None else box.cut(self.gt, scale)
        return replace(self, gt=gt, lq=box.cut(self.lq), cache_key=cache_key, box=box)


@dataclass(frozen=True)
class BatchSettings:
    """How training batches are drawn and prepared; what ``[data]`` sets has the name of its key."""

    crop_size: int
    """Side of the crops of the clean image, pixels, a multiple of ``scale``."""
    batch_size: int
    """Crops in a micro-batch."""
    scale: int
    """Size of the clean image divided by that of the low-quality one."""
    seed: int
    augment: bool = True
    """Turn crops by a random number of quarter turns, and mirror half of them."""
    full_images: bool = False
    """Give the full images with their crops; unpaired crops then lie on a grid of ``scale``."""
    cycle_steps: int = 0
    """Step s has the batches of step s mod ``cycle_steps``; 0: every step has its own."""
    max_bad_fraction: float = 0.05
    """Share of a source's images that may be unusable (unreadable, or smaller than the crop)."""
    num_workers: int = 0
    """Processes that prepare batches ahead; with 0 one thread does."""
    image_cache_mb: float = 512
    """Decoded images that this process keeps in memory, shared out among its workers."""
    micro_batches: int = 1
    """Micro-batches in a step, over all processes."""


class _Place(NamedTuple):
    """Which micro-batch of which step."""

    step: int
    micro_batch: int


BadImages = dict[int, dict[str, str]]
"""By the number of the source: the ids of unusable images, and why they cannot be used."""


@dataclass(frozen=True)
class _PreparedBatch:
    batch: Batch
    bad_images: BadImages
    """Unusable images that were drawn for it."""


class _Crop(NamedTuple):
    """One crop of a batch, and the example it was cut from."""

    gt: Tensor | None
    lq: Tensor | None
    box: CropBox
    example: Example


class TrainingBatches:
    """Random crops of several sources, paired and unpaired.

    A batch depends on seed, stage, step and micro-batch alone.

    A step takes ``settings.micro_batches`` batches, numbered from 0; it does not matter which
    process prepares which of them, or when.

    Within a stage:

    - The batch of a step and micro-batch is the same whatever was drawn before, in whatever
      process, with however many workers.
    - Of each 1000 batches (0-999, 1000-1999, ... over all micro-batches) paired and unpaired
      sources get their shares by weight, to within one and at least one; so do the sources of a
      kind of each 1000 images of that kind.
    - A source is run through in random orders: no image comes twice before each has come once,
      counted over all micro-batches.
    - The exception is an image that cannot be used: a random other one of its source replaces it.

    Args:
        sources: Where images come from.
        weights: Share of the drawn images, relative to each other.
        settings: How batches are drawn and prepared.

    Raises:
        DataError: No sources, not a weight above 0 for each, or a crop that is not a multiple of
            the scale.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        weights: Sequence[float],
        settings: BatchSettings,
    ) -> None:
        _check(sources, weights, settings)
        self.sources = list(sources)
        self.weights = list(weights)
        self.settings = settings
        self.cache = ImageCache(int(settings.image_cache_mb * 1e6))
        self.wait_seconds = 0.0
        """Time that consumers of :meth:`iterate` have waited for batches."""
        self._bad_images: BadImages = defaultdict(dict)
        # A batch is of one kind. Unpaired sources come first: their number is part of the seeds.
        paired = [k for k, source in enumerate(sources) if source.paired]
        without_truth = [k for k, source in enumerate(sources) if not source.has_ground_truth]
        unpaired = [k for k in range(len(sources)) if k not in (*paired, *without_truth)]
        self._groups = [group for group in (unpaired, paired, without_truth) if group]

    @property
    def bad_images(self) -> dict[str, str]:
        """Unusable images that were drawn so far, and why they cannot be used."""
        reasons = {}
        for reasons_by_image in self._bad_images.values():
            reasons.update(reasons_by_image)
        return reasons

    def batch(
        self,
        stage: str,
        step: int,
        micro_batch: int = 0,
    ) -> Batch:
        """Prepare one micro-batch of one step.

        Raises:
            DataError: More than ``max_bad_fraction`` of a source's images cannot be used; the
                first of them are named.
        """
        return self._accept(self._prepare(stage, _Place(step, micro_batch)))

    def iterate(
        self,
        stage: str,
        first_step: int,
        last_step: int,
        micro_batches: Sequence[int] = (0,),
    ) -> Iterator[Batch]:
        """Yield the batches of several steps, prepared ahead.

        Args:
            stage: Name of the stage.
            first_step: The step to begin with.
            last_step: The step to stop before.
            micro_batches: Which micro-batches of each step.

        Raises:
            DataError: As :meth:`batch`.
        """
        steps = range(first_step, last_step)
        places = [_Place(step, micro_batch) for step in steps for micro_batch in micro_batches]
        if self.settings.num_workers:
            stream = self._from_workers(stage, places)
        else:
            stream = self._from_thread(stage, places)
        try:
            for _ in places:
                began = time.perf_counter()
                prepared = next(stream)
                self.wait_seconds += time.perf_counter() - began
                yield self._accept(prepared)
        finally:
            stream.close()

    def _prepare(self, stage: str, place: _Place) -> _PreparedBatch:
        """Draw and cut one batch; changes nothing but the cache."""
        settings = self.settings
        step, micro_batch = place
        if settings.cycle_steps:
            step %= settings.cycle_steps
        # Numbered over all micro-batches, so that shares and epochs hold over all processes.
        number = step * settings.micro_batches + micro_batch
        kind, earlier = self._draw_kind(stage, number)
        key = (settings.seed, stage, step, micro_batch)
        crops = []
        bad_images: BadImages = defaultdict(dict)
        for slot in range(settings.batch_size):
            position = earlier * settings.batch_size + slot
            source, first = self._draw_image(stage, kind, position)
            replacements = keyed_generator(*key, "replacement", slot)
            example = self._read_usable(source, first, replacements, bad_images)
            generator = keyed_generator(*key, "data", slot)
            crops.append(self._cut(example, self.sources[source].zoom_out, generator))
        return _PreparedBatch(self._collate(crops, kind, step), bad_images)

    def _draw_kind(self, stage: str, number: int) -> tuple[int, int]:
        """Draw the kind of a batch, and count the earlier batches of that kind."""
        weights = []
        for group in self._groups:
            weights.append(sum(self.weights[source] for source in group))
        return interleave(weights, number, self.settings.seed, stage, "kind")

    def _draw_image(
        self,
        stage: str,
        kind: int,
        position: int,
    ) -> tuple[int, int]:
        """Draw the source and the index of an image.

        The position counts the images of its kind.
        """
        seed = self.settings.seed
        group = self._groups[kind]
        weights = [self.weights[source] for source in group]
        choice, position = interleave(weights, position, seed, stage, "source", kind)
        source = group[choice]
        if self.sources[source].streamed:
            return source, position
        count = len(self.sources[source])
        return source, shuffled(count, position, seed, stage, "image", source)

    def _read_usable(
        self,
        number: int,
        first: int,
        replacements: torch.Generator,
        bad_images: BadImages,
    ) -> Example:
        """Read image ``first`` of a source, or else a random usable one."""
        source = self.sources[number]

        def read() -> Example:
            example = source.read(index)
            check_sizes(example.sizes, self.settings.crop_size, self.settings.scale)
            return example

        # The replacement is random: neighbors of a bad image would come too often otherwise.
        candidates = _candidates(first, len(source), replacements)
        if source.streamed:
            # The rows after it; any other one would be far to seek.
            candidates = iter(range(first, first + len(source)))
        for index in candidates:
            try:
                return self.cache.get((number, index), read)
            except BadImageError as error:
                last_error = error
                bad_images[number][error.id] = error.reason
                self._check_bad_fraction(number, bad_images)
        raise DataError(
            f"{source.name} - not one of {len(source)} images can be used; the last one: "
            f"{last_error}"
        )

    def _cut(self, example: Example, zoom_out: float, generator: torch.Generator) -> _Crop:
        """Cut a random crop, and shrink it to ``settings.crop_size``."""
        settings = self.settings
        # Only a crop without a low-quality partner may begin at any pixel of the clean image.
        unit = settings.scale
        if example.lq is None and not settings.full_images:
            unit = 1
        height, width = _count_corners(example, unit)
        final_side = settings.crop_size // unit
        side = draw_side(final_side, zoom_out, min(height, width), generator)
        box = draw_box(height, width, side, augment=settings.augment, generator=generator)
        gt, lq = cut_pair(example, box, unit)
        if gt is not None:
            gt = shrink_crop(gt, settings.crop_size)
        if lq is not None:
            lq = shrink_crop(lq, settings.crop_size // settings.scale)
        return _Crop(gt, lq, box, example)

    def _collate(
        self,
        crops: Sequence[_Crop],
        kind: int,
        step: int,
    ) -> Batch:
        full_images = None
        if self.settings.full_images:
            full_images = [_full_image(crop, self.settings.scale) for crop in crops]
        return Batch(
            gt=_stack([crop.gt for crop in crops]),
            lq=_stack([crop.lq for crop in crops]),
            ids=[crop.example.id for crop in crops],
            step=step,
            captions=self._captions(crops, kind),
            full_images=full_images,
        )

    def _captions(self, crops: Sequence[_Crop], kind: int) -> list[str | None] | None:
        for source in self._groups[kind]:
            if self.sources[source].columns.caption is not None:
                return [crop.example.caption for crop in crops]
        return None

    def _accept(self, prepared: _PreparedBatch) -> Batch:
        """Count the unusable images of a prepared batch and unwrap it."""
        for source, reasons in prepared.bad_images.items():
            self._bad_images[source].update(reasons)
            self._check_bad_fraction(source, self._bad_images)
        return prepared.batch

    def _check_bad_fraction(self, source: int, bad_images: BadImages) -> None:
        check_bad_fraction(self.sources[source], bad_images[source], self.settings.max_bad_fraction)

    def _from_thread(
        self, stage: str, places: Sequence[_Place]
    ) -> Generator[_PreparedBatch, None, None]:
        # A thread is enough: images are decoded outside the interpreter's lock.
        pool = ThreadPoolExecutor(1, "batches")
        pending: deque[Future[_PreparedBatch]] = deque()
        try:
            for place in places:
                pending.append(pool.submit(self._prepare, stage, place))
                if len(pending) > _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _from_workers(
        self, stage: str, places: Sequence[_Place]
    ) -> Generator[_PreparedBatch, None, None]:
        workers = self.settings.num_workers
        # The memory for images is shared out among the workers, whose caches start empty.
        worker = copy.copy(self)
        worker.cache = ImageCache(self.cache.limit // workers)
        loader = DataLoader(
            _WorkerBatches(worker, stage),
            batch_size=None,
            sampler=places,
            num_workers=workers,
            prefetch_factor=_AHEAD,
            # Without a generator the loader would draw from torch's global one.
            generator=keyed_generator(self.settings.seed, "loader"),
        )
        for answer in loader:
            if isinstance(answer, DataError):
                raise answer
            yield answer


@dataclass(frozen=True)
class _WorkerBatches(Dataset[_PreparedBatch | DataError]):
    """Batches by place, prepared in a worker process.

    Errors are returned: the loader would wrap the text of a raised one in a traceback.
    """

    batches: TrainingBatches
    stage: str

    def __getitem__(self, place: _Place) -> _PreparedBatch | DataError:
        try:
            return self.batches._prepare(self.stage, place)
        except DataError as error:
            return error


def _check(
    sources: Sequence[Source],
    weights: Sequence[float],
    settings: BatchSettings,
) -> None:
    if not sources or len(sources) != len(weights) or min(weights) <= 0:
        raise DataError(
            f"{len(sources)} sources of images with weights {list(weights)}: give at least one, "
            "each a weight above 0"
        )
    if settings.crop_size % settings.scale:
        raise DataError(
            f"a crop of {settings.crop_size} pixels is not a multiple of the scale {settings.scale}"
        )


def _count_corners(example: Example, unit: int) -> tuple[int, int]:
    """Return an image's height and width on the grid of crops, ``unit`` clean pixels wide."""
    if example.lq is not None:
        height, width, _ = example.lq.shape
        return height, width
    assert example.gt is not None
    height, width, _ = example.gt.shape
    return height // unit, width // unit


def _stack(crops: Sequence[Tensor | None]) -> Tensor | None:
    """Stack crops of one kind, which all are there or all are missing."""
    present = [crop for crop in crops if crop is not None]
    return torch.stack(present) if present else None


def _candidates(
    first: int,
    count: int,
    generator: torch.Generator,
) -> Iterator[int]:
    yield first
    yield from torch.randperm(count, generator=generator).tolist()


def _full_image(crop: _Crop, scale: int) -> FullImage:
    if crop.example.lq is not None:
        return FullImage(crop.example.lq, crop.box)
    clean = crop.example.gt
    assert clean is not None
    height = clean.shape[0] // scale * scale
    width = clean.shape[1] // scale * scale
    return FullImage(clean[:height, :width], crop.box)
