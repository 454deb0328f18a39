"""Training batches, each a pure function of its number: earlier draws do not matter."""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from distillkit.data.cache import ImageCache
from distillkit.data.crops import CropBox, FullImage, check_size, cut_pair, draw_box
from distillkit.data.sampling import interleave, shuffled
from distillkit.data.seeds import keyed_generator
from distillkit.data.sources import BadImageError, Example, Source, check_share
from distillkit.errors import DataError

_AHEAD = 2
"""Batches prepared before they are asked for, by the thread or by each worker."""


@dataclass(frozen=True)
class Batch:
    """The crops of one micro-batch: all with a low-quality image of their own, or none."""

    gt: Tensor
    """(B, 3, crop, crop) in [-1, 1]."""
    lq: Tensor | None
    """(B, 3, crop / scale, crop / scale) in [-1, 1]; None: the recipe's degradation makes it."""
    ids: list[str]
    step: int = 0
    """The step that keys its draws; with ``cycle`` the first step that has this batch."""
    captions: Sequence[str | None] | None = None
    """One for each image; None where no source of the batch has captions."""
    full_images: Sequence[FullImage] | None = None
    """The image that each crop was cut from, if the settings ask for it."""


@dataclass(frozen=True)
class BatchSettings:
    """How training batches are drawn and prepared."""

    crop: int
    """Side of the crops of the clean image, pixels, a multiple of ``scale``."""
    batch_size: int
    """Crops in a micro-batch."""
    scale: int
    """Size of the clean image divided by that of the low-quality one."""
    seed: int
    flip: bool = True
    """Turn crops by a random number of quarter turns, and mirror half of them."""
    full_images: bool = False
    """Give the full images with their crops; unpaired crops then lie on a grid of ``scale``."""
    cycle: int = 0
    """Step s has the batches of step s mod ``cycle``; 0: every step has its own."""
    max_bad_fraction: float = 0.05
    """Share of a source's images that may be unusable (unreadable, or smaller than the crop)."""
    workers: int = 0
    """Processes that prepare batches ahead; with 0 one thread does."""
    image_cache_mb: float = 512
    """Decoded images that this process keeps in memory, shared out among its workers."""
    micro_batches: int = 1
    """Micro-batches in a step, over all processes."""


class _Place(NamedTuple):
    """Which micro-batch of which step."""

    step: int
    micro_batch: int


class _Crop(NamedTuple):
    """One crop of a batch, and the example it was cut from."""

    gt: Tensor
    lq: Tensor | None
    example: Example
    full_image: FullImage | None


class _BadImages:
    """Unusable images, by source, with a limit on their share."""

    def __init__(self, sources: Sequence[Source], max_fraction: float) -> None:
        self._sources = sources
        self._max_fraction = max_fraction
        self._errors: list[dict[str, BadImageError]] = [{} for _ in sources]

    def add(self, source: int, error: BadImageError) -> None:
        """Add an image.

        Raises:
            DataError: too many images of that source cannot be used.
        """
        errors = self._errors[source]
        errors[error.id] = error
        reasons = {id: bad.reason for id, bad in errors.items()}
        check_share(self._sources[source], reasons, self._max_fraction)

    def __iter__(self) -> Iterator[tuple[int, BadImageError]]:
        for source, errors in enumerate(self._errors):
            for error in errors.values():
                yield source, error


@dataclass(frozen=True)
class _PreparedBatch:
    batch: Batch
    bad_images: list[tuple[int, BadImageError]]
    """Unusable images that were drawn for it, each with the number of its source."""


class PairedBatches:
    """Random crops of several sources, reproducible from (seed, stage, step, micro-batch) alone.

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
        sources: where images come from.
        weights: share of the drawn images, relative to each other.
        settings: how batches are drawn and prepared.

    Raises:
        DataError: no sources, not a weight above 0 for each, or a crop that is not a multiple of
            the scale.
    """

    def __init__(
        self, sources: Sequence[Source], weights: Sequence[float], settings: BatchSettings
    ) -> None:
        if not sources or len(sources) != len(weights) or min(weights) <= 0:
            raise DataError(
                f"{len(sources)} sources of images with weights {list(weights)}: give at least "
                "one, each a weight above 0"
            )
        if settings.crop % settings.scale:
            raise DataError(
                f"a crop of {settings.crop} pixels is not a multiple of the scale {settings.scale}"
            )
        self.sources = list(sources)
        self.weights = list(weights)
        self.settings = settings
        self.cache = ImageCache(int(settings.image_cache_mb * 1e6))
        self.wait_seconds = 0.0
        """Time that consumers of :meth:`iterate` have waited for batches."""
        self._bad_images = self._no_bad_images()
        # A batch is of one kind. Unpaired sources come first: their number is part of the seeds.
        unpaired = [k for k, source in enumerate(sources) if not source.paired]
        paired = [k for k, source in enumerate(sources) if source.paired]
        self._groups = [group for group in (unpaired, paired) if group]

    @property
    def bad_images(self) -> dict[str, str]:
        """Unusable images that were drawn so far, and why they cannot be used."""
        return {error.id: error.reason for _, error in self._bad_images}

    def batch(self, stage: str, step: int, micro_batch: int = 0) -> Batch:
        """Prepare one micro-batch of one step.

        Raises:
            DataError: more than ``max_bad_fraction`` of a source's images cannot be used; the
                first of them are named.
        """
        return self._accept(self._prepare(stage, _Place(step, micro_batch)))

    def iterate(
        self, stage: str, first_step: int, last_step: int, micro_batches: Sequence[int] = (0,)
    ) -> Iterator[Batch]:
        """Yield the batches of several steps, prepared ahead.

        Args:
            stage: name of the stage.
            first_step: the step to begin with.
            last_step: the step to stop before.
            micro_batches: which micro-batches of each step.

        Raises:
            DataError: as :meth:`batch`.
        """
        steps = range(first_step, last_step)
        places = [_Place(step, micro_batch) for step in steps for micro_batch in micro_batches]
        if self.settings.workers:
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
        if settings.cycle:
            step %= settings.cycle
        kind, earlier = self._draw_kind(stage, step * settings.micro_batches + micro_batch)
        key = (settings.seed, stage, step, micro_batch)
        bad_images = self._no_bad_images()
        crops: list[_Crop] = []
        for slot in range(settings.batch_size):
            position = earlier * settings.batch_size + slot
            source, image = self._draw_image(stage, kind, position)
            replacements = keyed_generator(*key, "replacement", slot)
            example = self._read_usable(source, image, replacements, bad_images)
            crops.append(self._cut(example, keyed_generator(*key, "data", slot)))
        has_captions = any(self.sources[k].columns.caption for k in self._groups[kind])
        return _PreparedBatch(_collate(crops, step, has_captions), list(bad_images))

    def _draw_kind(self, stage: str, position: int) -> tuple[int, int]:
        """Draw the kind of a batch, and count the earlier batches of that kind."""
        weights = [sum(self.weights[k] for k in group) for group in self._groups]
        return interleave(weights, position, self.settings.seed, stage, "kind")

    def _draw_image(self, stage: str, kind: int, position: int) -> tuple[int, int]:
        """Draw the source and the index of an image, by its position among those of its kind."""
        seed = self.settings.seed
        group = self._groups[kind]
        weights = [self.weights[k] for k in group]
        choice, position = interleave(weights, position, seed, stage, "source", kind)
        source = group[choice]
        return source, shuffled(len(self.sources[source]), position, seed, stage, "image", source)

    def _read_usable(
        self, number: int, first: int, replacements: torch.Generator, bad_images: _BadImages
    ) -> Example:
        """Read image ``first`` of a source, or else the first usable one in a random order."""
        source = self.sources[number]

        def read() -> Example:
            example = source.read(index)
            check_size(example, self.settings.crop, self.settings.scale)
            return example

        for index in _candidates(first, len(source), replacements):
            try:
                return self.cache.get((number, index), read)
            except BadImageError as error:
                last_error = error
                bad_images.add(number, error)
        raise DataError(
            f"{source.name} - not one of {len(source)} images can be used; the last one: "
            f"{last_error}"
        )

    def _cut(self, example: Example, generator: torch.Generator) -> _Crop:
        """Cut a random crop."""
        settings = self.settings
        # Only a crop without a low-quality partner may begin at any pixel of the clean image.
        unit = settings.scale
        if example.lq is None and not settings.full_images:
            unit = 1
        height = example.gt.shape[0] // unit
        width = example.gt.shape[1] // unit
        side = settings.crop // unit
        box = draw_box(height, width, side, flip=settings.flip, generator=generator)
        gt, lq = cut_pair(example, box, unit)
        full_image = None
        if settings.full_images:
            full_image = _full_image(example, box, settings.scale)
        return _Crop(gt, lq, example, full_image)

    def _accept(self, prepared: _PreparedBatch) -> Batch:
        """Count the unusable images of a prepared batch and unwrap it."""
        for source, error in prepared.bad_images:
            self._bad_images.add(source, error)
        return prepared.batch

    def _no_bad_images(self) -> _BadImages:
        return _BadImages(self.sources, self.settings.max_bad_fraction)

    def _from_thread(
        self, stage: str, places: Sequence[_Place]
    ) -> Generator[_PreparedBatch, None, None]:
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
        workers = self.settings.workers
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

    batches: PairedBatches
    stage: str

    def __getitem__(self, place: _Place) -> _PreparedBatch | DataError:
        try:
            return self.batches._prepare(self.stage, place)
        except DataError as error:
            return error


def _candidates(first: int, count: int, generator: torch.Generator) -> Iterator[int]:
    yield first
    yield from torch.randperm(count, generator=generator).tolist()


def _full_image(example: Example, box: CropBox, scale: int) -> FullImage:
    if example.lq is not None:
        return FullImage(example.lq, box)
    height, width = example.gt.shape[:2]
    trimmed = example.gt[: height // scale * scale, : width // scale * scale]
    return FullImage(trimmed, box)


def _collate(crops: Sequence[_Crop], step: int, has_captions: bool) -> Batch:
    gt = [crop.gt for crop in crops]
    lq = [crop.lq for crop in crops if crop.lq is not None]
    ids = [crop.example.id for crop in crops]
    captions = [crop.example.caption for crop in crops]
    full_images = [crop.full_image for crop in crops if crop.full_image is not None]
    return Batch(
        gt=torch.stack(gt),
        lq=torch.stack(lq) if lq else None,
        ids=ids,
        step=step,
        captions=captions if has_captions else None,
        full_images=full_images or None,
    )
