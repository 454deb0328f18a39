"""Check that the files and datasets of a recipe are on this machine, and download them."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from distillkit.errors import DistillkitError
from distillkit.files.weights import WeightFile
from distillkit.plugins.manager import load_plugins
from distillkit.recipe import fields
from distillkit.recipe.build import read_settings
from distillkit.recipe.key_paths import KeyPath, dotted
from distillkit.recipe.load import ResolvedRecipe, is_training_metric
from distillkit.recipe.schema import SourceConfig

Say = Callable[[str], None]
"""Shows a line to the user."""


def check_required_files(resolved: ResolvedRecipe) -> None:
    """Raise an error unless the weight files, datasets and folders of a recipe are here.

    Nothing is looked up on the network. A metric of the evaluation may lack its weights: it is left
    out.

    Raises:
        DistillkitError: Lists everything that is missing, weight files with size and license, and
            the command that fetches it.
    """
    files = _weight_files(resolved, evaluation=False)
    missing = [_describe(file) for file in files if file.find() is None]
    missing += [data.line for data in _missing_data(resolved)]
    if not missing:
        return
    raise DistillkitError(
        "\n".join(
            [
                "not on this machine, and needed:",
                *(f"  {line}" for line in missing),
                f"fetch what can be fetched with: {command_line('fetch', resolved)}",
            ]
        )
    )


def command_line(command: str, resolved: ResolvedRecipe) -> str:
    """Write a ``distillkit`` command with the recipe's name, to be shown in an error or a hint."""
    line = f"distillkit {command} {resolved.source}"
    if resolved.overrides:
        line += " and the same --set options"
    return line


class Needs(NamedTuple):
    """The files and datasets that a recipe needs."""

    present: list[str]
    missing: list[str]
    can_train: bool
    """Whether all that training needs is here; the evaluation's files and images may be missing."""
    weight_bytes: int
    """Size of all files that training reads, as far as it is stated or the files are here."""


def list_needs(resolved: ResolvedRecipe) -> Needs:
    """List the files that a recipe needs, and whether they are here.

    Nothing is looked up on the network.
    """
    training = {file.name for file in _weight_files(resolved, evaluation=False)}
    present = []
    missing = []
    can_train = True
    weight_bytes = 0
    for file in _weight_files(resolved, evaluation=True):
        path = file.find()
        if path is None:
            missing.append(_describe(file))
            size = file.size or 0
        else:
            present.append(f"{file.name}, license {file.license}")
            size = path.stat().st_size
        if file.name in training:
            weight_bytes += size
            can_train = can_train and path is not None
    for data in _missing_data(resolved):
        missing.append(data.line)
        if data.key[:2] == ("data", "train"):
            can_train = False
    return Needs(present, missing, can_train, weight_bytes)


def fetch_all(resolved: ResolvedRecipe, say: Say) -> bool:
    """Download every weight file and Hub dataset that a recipe names.

    After a failure the others are still fetched.

    Args:
        resolved: The recipe.
        say: Shows a line about each.

    Returns:
        Whether everything that the recipe names is here now.
    """
    complete = _fetch_files(_weight_files(resolved, evaluation=True), say)
    for key, source in _hub_sources(resolved):
        try:
            _fetch_dataset(source, say)
        except DistillkitError as error:
            say(f"not here: {error} ({resolved.locate((*key, 'hub'))})")
            complete = False
    for data in _missing_paths(resolved):
        say(f"by hand: {data.line}")
        complete = False
    return complete


def fetch_metrics(
    names: Sequence[str],
    settings: Mapping[str, Mapping[str, Any]],
    say: Say,
) -> bool:
    """Download the weights of metrics, as comparisons of folders need them.

    Args:
        names: The metrics.
        settings: Their options, by the metric's name.
        say: Shows a line about each file.

    Returns:
        Whether all of them are here now.

    Raises:
        PluginError: There is no such metric, or it does not take its options.
    """
    plugins = load_plugins()
    files: list[WeightFile] = []
    for name in names:
        options = read_settings(plugins.find("metrics", name), settings.get(name, {}))
        needed = options.weight_files()
        if not needed:
            say(f"{name}: names no weight files with these options")
        files += needed
    return _fetch_files(files, say)


def _fetch_files(files: Iterable[WeightFile], say: Say) -> bool:
    complete = True
    for file in files:
        try:
            say(f"here: {file.fetch()}")
        except DistillkitError as error:
            if file.fetchable or file.find():
                say(f"not here: {error}")
            else:
                say(f"by hand: {_describe(file)}")
            complete = False
    return complete


def _weight_files(resolved: ResolvedRecipe, *, evaluation: bool) -> list[WeightFile]:
    """List the weight files of a recipe, each once.

    Those of a distance with weight 0 are left out, and without ``evaluation`` its metrics' too.
    """
    by_name: dict[str, WeightFile] = {}
    built = [component.key for component in resolved.training_metrics]
    for component in resolved.components.values():
        # A distance without weight is never built.
        if is_training_metric(component.key) and component.key not in built:
            continue
        if component.key[0] == "evaluation" and not evaluation:
            continue
        for file in component.config.weight_files():
            by_name[file.name] = file
    return list(by_name.values())


def _sources(resolved: ResolvedRecipe) -> Iterator[tuple[KeyPath, SourceConfig]]:
    data = resolved.recipe.data
    for number, source in enumerate(data.train):
        yield ("data", "train", number), source
    for number, source in enumerate(data.eval):
        yield ("data", "eval", number), source


class _MissingData(NamedTuple):
    """A dataset, folder or file that a recipe names and that is not here."""

    key: KeyPath
    line: str
    """The place in the recipe, and what is missing."""


def _missing_data(resolved: ResolvedRecipe) -> Iterator[_MissingData]:
    yield from _missing_datasets(resolved)
    yield from _missing_paths(resolved)


def _hub_sources(resolved: ResolvedRecipe) -> Iterator[tuple[KeyPath, SourceConfig]]:
    for key, source in _sources(resolved):
        if source.hub is not None:
            yield key, source


def _missing_datasets(resolved: ResolvedRecipe) -> Iterator[_MissingData]:
    """Yield the Hub's datasets that are not here."""
    for key, source in _hub_sources(resolved):
        if source.streaming:
            continue
        from distillkit.data.hub import is_cached
        from distillkit.recipe.build import hub_dataset

        dataset = hub_dataset(source)
        assert dataset is not None
        if not is_cached(dataset):
            yield _missing_at(resolved, (*key, "hub"), f"dataset {dataset} of the Hub")


def _missing_paths(resolved: ResolvedRecipe) -> Iterator[_MissingData]:
    """Yield missing folders and files of the data's tables.

    Those of plugins' datasets are included.
    """
    for key, source in _sources(resolved):
        component = resolved.components.get(dotted(key))
        yield from _missing_folders(resolved, key, source)
        if source.parquet is not None and not _matches_a_file(str(source.parquet)):
            what = f"no such file: {source.parquet}"
            yield _missing_at(resolved, (*key, "parquet"), what)
        if component is None:
            continue
        for below in fields.file_path_keys(component.spec.config, dict(component.table)):
            path = resolved.document.get((*key, *below))
            if not Path(path).exists():
                what = f"no such file or folder: {path}"
                yield _missing_at(resolved, (*key, *below), what)


def _missing_folders(
    resolved: ResolvedRecipe, key: KeyPath, source: SourceConfig
) -> Iterator[_MissingData]:
    for name in ("imagefolder", "lq_folder"):
        folder = getattr(source, name)
        if folder is not None and not folder.is_dir():
            yield _missing_at(resolved, (*key, name), f"no such folder: {folder}")


def _missing_at(resolved: ResolvedRecipe, key: KeyPath, what: str) -> _MissingData:
    return _MissingData(key, f"{resolved.locate(key)} - {what}")


def _matches_a_file(pattern: str) -> bool:
    """Check whether a path or glob matches something.

    What is on a remote file system is taken to be there.
    """
    return "://" in pattern or bool(glob.glob(pattern, recursive=True))  # noqa: PTH207


def _fetch_dataset(source: SourceConfig, say: Say) -> None:
    """Download a dataset where need be, and check that it has the split and the columns."""
    from distillkit.data.hub import is_cached, size_and_license
    from distillkit.recipe.build import hub_dataset, open_configured_source

    dataset = hub_dataset(source)
    assert dataset is not None
    if not source.streaming and not is_cached(dataset):
        size, license = size_and_license(dataset)
        say(f"downloading the dataset {dataset}: {_format_size(size)}, license {license}")
    opened = open_configured_source(source)
    assert opened.hub is not None
    say(f"here: {len(opened)} images of {dataset}, commit {opened.hub.revision}")


def _describe(file: WeightFile) -> str:
    text = f"{file.name}  {_format_size(file.size)}, license {file.license}"
    if file.fetchable:
        return text
    text += "; to be put there by hand"
    if file.source:
        text += f", from {file.source}"
    return text


def _format_size(size: int | None) -> str:
    if not size:
        return "size unknown"
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.0f} MB"
