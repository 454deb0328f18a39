"""What must be on this machine before a run does any work, and fetching it."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from distillkit.errors import DistillkitError
from distillkit.files.weights import WeightFile
from distillkit.recipe import fields
from distillkit.recipe.load import ResolvedRecipe
from distillkit.recipe.positions import KeyPath, dotted
from distillkit.recipe.schema import Source


def check_presence(resolved: ResolvedRecipe) -> None:
    """Refuse a recipe that needs weight files, datasets or folders which are not on this machine; the network is not asked.

    A metric of the evaluation may lack its weights: it is left out.

    Raises:
        DistillkitError: listing all that is missing, weight files with size and license, and the command that fetches them.
    """
    weights = [_described(f) for f in _weight_files(resolved, evaluation=False) if f.find() is None]
    data = [f"{name} of the Hub" for name, _ in _missing_datasets(resolved)] + list(
        _missing_paths(resolved)
    )
    if weights or data:
        lines = ["not on this machine, and needed:", *(f"  {line}" for line in weights + data)]
        options = (
            " and the same --set options"
            if any(o.source == "--set" for o in resolved.document.origins.values())
            else ""
        )
        raise DistillkitError(
            "\n".join(
                [
                    *lines,
                    f"fetch what can be fetched with: distillkit fetch {resolved.path}{options}",
                ]
            )
        )


class Survey(NamedTuple):
    """What a recipe needs."""

    here: list[str]
    missing: list[str]
    enough: bool
    """Whether it can be trained: held-out images, and weights that only the evaluation needs, may be missing."""
    weight_bytes: int
    """Of all files that training reads, as far as their sizes are declared or their files are here."""


def survey(resolved: ResolvedRecipe) -> Survey:
    """What of a recipe is on this machine and what is not; the network is not asked."""
    training = {file.name for file in _weight_files(resolved, evaluation=False)}
    files = _weight_files(resolved, evaluation=True)
    here = [f"{f.name}, license {f.license}" for f in files if f.find() is not None]
    lacking = [f for f in files if f.find() is None]
    data = [f"{name} of the Hub" for name, _ in _missing_datasets(resolved)] + list(
        _missing_paths(resolved)
    )
    enough = not any(f.name in training for f in lacking) and not any(
        "data.train." in line for line in data
    )
    sizes = [
        path.stat().st_size if (path := f.find()) else f.size or 0
        for f in files
        if f.name in training
    ]
    return Survey(here, [*(_described(f) for f in lacking), *data], enough, sum(sizes))


def fetch_all(resolved: ResolvedRecipe, say: Callable[[str], None]) -> bool:
    """Download every weight file and every dataset of the Hub that a recipe names; a failure does not keep the rest waiting.

    Args:
        say: told what became of each.

    Returns:
        whether everything that the recipe names is here now.
    """
    complete = True
    for file in _weight_files(resolved, evaluation=True):
        try:
            say(f"here: {file.fetch()}")
        except DistillkitError as e:
            say(
                f"not here: {e}"
                if file.fetchable or file.find()
                else f"by hand: {_described(file)}"
            )
            complete = False
    for name, source in _missing_datasets(resolved):
        try:
            _fetch_dataset(source, say)
        except DistillkitError as e:
            say(f"not here: {e} ({name})")
            complete = False
    for line in _missing_paths(resolved):
        say(f"by hand: {line}")
        complete = False
    return complete


def _weight_files(resolved: ResolvedRecipe, *, evaluation: bool) -> list[WeightFile]:
    """Each file once; those of a distance that is trained with weight 0, and unless asked for those of the evaluation, left out."""
    unused = () if resolved.recipe.stage1.weights.perceptual > 0 else ("stage1.perceptual",)
    needed = [
        c
        for k, c in resolved.components.items()
        if k not in unused and (evaluation or not k.startswith("evaluation."))
    ]
    return list({f.name: f for c in needed for f in c.config.weight_files()}.values())


def _sources(resolved: ResolvedRecipe) -> Iterator[tuple[KeyPath, Source]]:
    for part in ("train", "eval"):
        yield from (
            (("data", part, i), source)
            for i, source in enumerate(getattr(resolved.recipe.data, part))
        )


def _missing_datasets(resolved: ResolvedRecipe) -> Iterator[tuple[str, Source]]:
    """Datasets of the Hub that are not in the cache, with what errors call them."""
    for key, source in _sources(resolved):
        if source.hub is not None:
            from distillkit.data.sources import is_cached

            if not is_cached(source.hub):
                yield f"{_at(resolved, (*key, 'hub'))} - dataset {source.hub}", source


def _missing_paths(resolved: ResolvedRecipe) -> Iterator[str]:
    """Folders and files of the data's tables, those of plugins' datasets included, that are not there."""
    for key, source in _sources(resolved):
        component = resolved.components.get(dotted(key))
        if source.imagefolder is not None and not source.imagefolder.is_dir():
            yield f"{_at(resolved, (*key, 'imagefolder'))} - no such folder: {source.imagefolder}"
        elif source.parquet is not None and "://" not in str(source.parquet):
            if not glob.glob(str(source.parquet), recursive=True):  # noqa: PTH207
                yield f"{_at(resolved, (*key, 'parquet'))} - no such file: {source.parquet}"
        elif component is not None:
            for below in fields.paths_within(component.spec.config, dict(component.table)):
                path = resolved.document.get((*key, *below))
                if not Path(path).exists():
                    yield f"{_at(resolved, (*key, *below))} - no such file or folder: {path}"


def _fetch_dataset(source: Source, say: Callable[[str], None]) -> None:
    from distillkit.data.sources import hub_facts, open_source

    assert source.hub is not None
    size, license = hub_facts(source.hub, source.revision)
    say(f"downloading the dataset {source.hub}: {_size(size)}, license {license}")
    found = open_source(
        hub=source.hub,
        revision=source.revision,
        split=source.split,
        column=source.column,
        lq_column=source.lq_column,
        caption_column=source.caption_column,
    )
    say(f"here: {len(found)} images of {source.hub}")


def _at(resolved: ResolvedRecipe, key: KeyPath) -> str:
    return f"{resolved.document.origin(key)}  {dotted(key)}"


def _described(file: WeightFile) -> str:
    text = f"{file.name}  {_size(file.size)}, license {file.license}"
    return (
        text
        if file.fetchable
        else f"{text}; to be put there by hand" + (f", from {file.source}" if file.source else "")
    )


def _size(size: int | None) -> str:
    if not size:
        return "size unknown"
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
