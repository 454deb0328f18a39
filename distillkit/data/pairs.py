"""Training batches and evaluation pairs, each a pure function of its number: what came before does not matter."""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePath
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from distillkit.data.cache import ImageCache
from distillkit.data.crops import CropBox, Whole, central_grid, cut, fit
from distillkit.data.degradation import Degradation
from distillkit.data.sampling import interleave, shuffled
from distillkit.data.seeds import keyed_generator
from distillkit.data.sources import BadImageError, Example, Source, check_share
from distillkit.errors import DataError

Place = tuple[int, int]
"""A step, and one of its parts."""

_AHEAD = 2
"""Batches prepared before they are asked for, by the thread or by each worker."""


@dataclass(frozen=True)
class Batch:
    """Crops of one step. All come from sources of one kind: either all have a low-quality image of their own or none has."""

    gt: Tensor
    """(B, 3, crop, crop) in [-1, 1]."""
    lq: Tensor | None
    """(B, 3, crop / scale, crop / scale) in [-1, 1], or None: to be made from ``gt`` by the recipe's degradation."""
    ids: list[str]
    step: int = 0
    """What its draws are keyed by: the step it was made for, or with ``cycle`` the first step that has it."""
    captions: Sequence[str | None] | None = None
    """What is said of each image; None where no source of the batch says anything."""
    wholes: Sequence[Whole] | None = None
    """What each crop was cut out of, where that was asked for."""


class Item(NamedTuple):
    """A pair to evaluate on."""

    name: str
    lq: Tensor
    """(1, 3, h, w) in [-1, 1]."""
    gt: Tensor
    """(1, 3, H, W) in [-1, 1]."""
    caption: str | None = None


@dataclass(frozen=True)
class _Made:
    batch: Batch
    bad: list[tuple[int, BadImageError]]
    """Every unusable image met on the way, with the number of its source."""


class PairedBatches:
    """Random crops of several sources, reproducible from (seed, stage, step, part) alone.

    A step takes ``parts`` batches, numbered from 0; who makes which of them, and when, does not matter.

    What is promised, within a stage:

    - The batch of a step and part is the same whatever was drawn before, in whatever process, with however many workers.
    - Of each 1000 batches (0-999, 1000-1999, ... over all parts) paired and unpaired sources get their shares by weight, to within
      one and at least one; so do the sources of a kind of each 1000 images of that kind.
    - A source is run through in random orders: no image comes twice before each has come once, counted over all parts.
    - The exception is an image that cannot be used: a random other one of its source takes its place.

    Args:
        sources: where images come from. weights: share of the drawn images, relative to each other.
        crop: side of the crops of the clean image, pixels, a multiple of ``scale``. batch_size: crops per batch.
        scale: size of the clean image divided by that of the low-quality one.
        flip: turn crops by a random multiple of 90 degrees and mirror half of them.
        whole: batches tell what their crops were cut out of; those of unpaired sources lie on a grid of ``scale`` pixels then.
        cycle: step s has the batch of step s mod ``cycle``; 0: every step has one of its own.
        max_bad_fraction: share of a source's images that may be unusable (unreadable, or smaller than the crop).
        workers: processes that prepare batches ahead; with 0 one thread does.
        image_cache_mb: decoded images kept in memory by this process, shared out among its workers.
        parts: batches of one step, over all processes.

    Raises:
        DataError: no sources, not a weight above 0 for each, or a crop that is no multiple of the scale.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        weights: Sequence[float],
        *,
        crop: int,
        batch_size: int,
        scale: int,
        seed: int,
        flip: bool = True,
        whole: bool = False,
        cycle: int = 0,
        max_bad_fraction: float = 0.05,
        workers: int = 0,
        image_cache_mb: float = 512,
        parts: int = 1,
    ) -> None:
        if not sources or len(sources) != len(weights) or min(weights) <= 0:
            raise DataError(
                f"{len(sources)} sources of images with weights {list(weights)}: give at least one, each a weight above 0"
            )
        if crop % scale:
            raise DataError(f"a crop of {crop} pixels is not a multiple of the scale {scale}")
        self.sources, self.weights = list(sources), list(weights)
        self.crop, self.batch_size, self.scale, self.seed, self.flip = (
            crop,
            batch_size,
            scale,
            seed,
            flip,
        )
        self.whole, self.cycle = whole, cycle
        self.max_bad_fraction, self.workers, self.parts = max_bad_fraction, workers, parts
        self.cache = ImageCache(int(image_cache_mb * 1e6))
        self.wait_seconds = 0.0
        """Time that consumers of :meth:`iterate` have waited for batches."""
        self._bad: list[dict[str, str]] = [{} for _ in sources]
        groups = [
            [k for k, source in enumerate(sources) if source.paired is paired]
            for paired in (False, True)
        ]
        self._groups = [group for group in groups if group]

    @property
    def bad_images(self) -> dict[str, str]:
        """Images that were passed over so far, and why."""
        return {name: reason for bad in self._bad for name, reason in bad.items()}

    def batch(self, stage: str, step: int, part: int = 0) -> Batch:
        """One of the batches of one step.

        Raises:
            DataError: more than ``max_bad_fraction`` of a source's images cannot be used; the first of them are named.
        """
        return self._accept(self._make(stage, (step, part)))

    def iterate(
        self, stage: str, first_step: int, last_step: int, parts: Sequence[int] = (0,)
    ) -> Iterator[Batch]:
        """Batches ``parts`` of each of the steps ``first_step`` to ``last_step - 1``, prepared ahead. Raises as :meth:`batch`."""
        places = [(step, part) for step in range(first_step, last_step) for part in parts]
        stream = (
            self._from_workers(stage, places) if self.workers else self._from_thread(stage, places)
        )
        try:
            for _ in places:
                began = time.perf_counter()
                made = next(stream)
                self.wait_seconds += time.perf_counter() - began
                yield self._accept(made)
        finally:
            stream.close()

    def _make(self, stage: str, place: Place) -> _Made:
        """The batch and the unusable images that were met; changes nothing but the cache."""
        step, part = place
        step = step % self.cycle if self.cycle else step
        kind_weights = [sum(self.weights[k] for k in group) for group in self._groups]
        kind, earlier = interleave(kind_weights, step * self.parts + part, self.seed, stage, "kind")
        group = self._groups[kind]
        crops: list[tuple[Tensor, Tensor | None]] = []
        wholes: list[Whole] = []
        ids: list[str] = []
        captions: list[str | None] = []
        bad: list[tuple[int, BadImageError]] = []
        for slot in range(self.batch_size):
            position = earlier * self.batch_size + slot
            choice, position = interleave(
                [self.weights[k] for k in group], position, self.seed, stage, "source", kind
            )
            which = group[choice]
            first = shuffled(len(self.sources[which]), position, self.seed, stage, "image", which)
            example = self._usable(
                which,
                first,
                keyed_generator(self.seed, stage, step, part, "replacement", slot),
                bad,
            )
            whole, unit = self._window(
                example, keyed_generator(self.seed, stage, step, part, "data", slot)
            )
            crops.append(cut(example, whole.window, unit))
            wholes.append(whole)
            ids.append(example.id)
            captions.append(example.caption)
        lq = [lq for _, lq in crops if lq is not None]
        gt = torch.stack([gt for gt, _ in crops])
        said = captions if any(self.sources[k].caption_column for k in group) else None
        return _Made(
            Batch(
                gt, torch.stack(lq) if lq else None, ids, step, said, wholes if self.whole else None
            ),
            bad,
        )

    def _usable(
        self, which: int, first: int, others: torch.Generator, bad: list[tuple[int, BadImageError]]
    ) -> Example:
        """Image ``first`` of a source, or else the first usable one of its images in a random order."""
        source = self.sources[which]

        def read() -> Example:
            return fit(source.read(index), self.crop, self.scale)

        for index in _candidates(first, len(source), others):
            try:
                return self.cache.get((which, index), read)
            except BadImageError as error:
                bad.append((which, error))
                self._check(which, {e.id: e.reason for k, e in bad if k == which})
        raise DataError(
            f"{source.name} - not one of {len(source)} images can be used; the last one: {bad[-1][1]}"
        )

    def _window(self, example: Example, generator: torch.Generator) -> tuple[Whole, int]:
        """A random crop, and how many clean pixels its unit is wide."""
        unit = 1 if example.lq is None and not self.whole else self.scale
        side = self.crop // unit
        height, width = (length // unit for length in example.gt.shape[:2])
        top, left = (
            int(torch.randint(length - side + 1, (), generator=generator))
            for length in (height, width)
        )
        turn = int(torch.randint(8, (), generator=generator)) if self.flip else 0
        image = example.gt[: height * unit, : width * unit] if example.lq is None else example.lq
        return Whole(image, CropBox(top, left, side, side, turn)), unit

    def _accept(self, made: _Made) -> Batch:
        for which, error in made.bad:
            self._bad[which][error.id] = error.reason
            self._check(which, self._bad[which])
        return made.batch

    def _check(self, which: int, bad: dict[str, str]) -> None:
        check_share(self.sources[which], bad, self.max_bad_fraction)

    def _from_thread(self, stage: str, places: Sequence[Place]) -> Generator[_Made, None, None]:
        pool = ThreadPoolExecutor(1, "batches")
        pending: deque[Future[_Made]] = deque()
        try:
            for place in places:
                pending.append(pool.submit(self._make, stage, place))
                if len(pending) > _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _from_workers(self, stage: str, places: Sequence[Place]) -> Generator[_Made, None, None]:
        worker = copy.copy(self)
        worker.cache = ImageCache(self.cache.limit // self.workers)
        loader = DataLoader(
            _Steps(worker, stage),
            batch_size=None,
            sampler=places,
            num_workers=self.workers,
            prefetch_factor=_AHEAD,
            generator=keyed_generator(
                self.seed, "loader"
            ),  # or else it would draw from torch's global one
        )
        for made in loader:
            if isinstance(made, DataError):
                raise made
            yield made


@dataclass(frozen=True)
class _Steps(Dataset[_Made | DataError]):
    """What a worker answers. An error is returned: raised in a worker, its text would end up inside a traceback."""

    batches: PairedBatches
    stage: str

    def __getitem__(self, place: Place) -> _Made | DataError:
        try:
            return self.batches._make(self.stage, place)
        except DataError as error:
            return error


def _candidates(first: int, count: int, generator: torch.Generator) -> Iterator[int]:
    yield first
    yield from torch.randperm(count, generator=generator).tolist()


def evaluation_items(
    source: Source,
    degradation: Degradation | None,
    *,
    crop: int | None,
    scale: int,
    seed: int,
    crops_per_image: int = 1,
    max_bad_fraction: float = 0.0,
    on_bad: Callable[[str, str], None] | None = None,
) -> list[Item]:
    """Fixed pairs to evaluate on, in the order of the source.

    A paired source gives its own low-quality images; those of another are made by ``degradation``, with draws that depend on
    ``seed`` and the name alone.

    Args:
        crop: side of the crops of the clean image, pixels, a multiple of ``scale``; None: whole images, trimmed at the right and
            the bottom to a multiple of ``scale``.
        crops_per_image: crops of one image do not overlap and lie on an even grid, the most central first; an image with room for
            fewer gives fewer. They are called ``photo#0``, ``photo#1`` ..., a whole image ``photo``.
        max_bad_fraction: share of the images that may be left out because they cannot be used. on_bad: called with the id of each
            of them and the reason.

    Raises:
        DataError: more bad images than that, a crop that is no multiple of the scale, or no degradation where one is needed.
    """
    if crop is not None and crop % scale:
        raise DataError(
            f"an evaluation crop of {crop} pixels is not a multiple of the scale {scale}"
        )
    items: list[Item] = []
    bad: dict[str, str] = {}
    photos: set[str] = set()
    for index in range(len(source)):
        try:
            example = fit(source.read(index), crop or scale, scale)
        except BadImageError as error:
            bad[error.id] = error.reason
            continue
        photo = str(PurePath(source.label(index)).with_suffix(""))
        photo = f"{photo}@{index}" if photo in photos else photo
        photos.add(photo)
        for name, window in _windows(photo, example, crop, crops_per_image, scale):
            gt, lq = cut(example, window, scale)
            if lq is None:
                if degradation is None:
                    raise DataError(
                        f"{source.name} - has no low-quality images of its own, and no degradation is given to make them"
                    )
                lq = degradation(
                    gt[None], keyed_generator(seed, "evaluation", name, "degradation")
                )[0]
            items.append(Item(name, lq[None], gt[None], example.caption))
    check_share(source, bad, max_bad_fraction)
    if on_bad is not None:
        for name, reason in bad.items():
            on_bad(name, reason)
    return items


def _windows(
    photo: str, example: Example, crop: int | None, count: int, scale: int
) -> list[tuple[str, CropBox]]:
    """The crops of one image, by name."""
    height, width = (length // scale for length in example.gt.shape[:2])
    if crop is None:
        return [(photo, CropBox(0, 0, height, width))]
    side = crop // scale
    return [
        (f"{photo}#{k}", CropBox(*corner, side, side))
        for k, corner in enumerate(central_grid(height, width, side)[:count])
    ]
