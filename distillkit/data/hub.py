"""Datasets of the Hugging Face Hub: one commit, downloaded, cached or streamed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import datasets
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)

from distillkit.data.parquet import count_rows
from distillkit.data.sources import HubDataset
from distillkit.errors import DataError, first_line
from distillkit.files.hub import causes, is_unreachable

_PAGE = "https://huggingface.co/datasets"


class HubSplit(NamedTuple):
    """A loaded split and the commit that it came from."""

    dataset: Any
    """A ``datasets.Dataset``, or where it is streamed a ``datasets.IterableDataset``."""
    commit: str
    rows: int


def load_from_hub(hub: HubDataset, *, streaming: bool = False) -> HubSplit:
    """Load one split of a dataset from the local cache, or download it.

    A revision stands for the commit that it names now; where the Hub cannot be reached, for the
    commit that it named at the last request. No other commit is ever taken in its place.

    Args:
        hub: The split.
        streaming: Read it over the network while it is used; nothing is downloaded ahead.

    Raises:
        DataError: There is no such dataset, revision, configuration or split, it may not be read,
            or the Hub cannot be reached.
    """
    if Path(hub.name).exists():
        raise DataError(
            f"{hub.name} - a local file or folder, not a dataset on the Hub; use imagefolder or "
            "parquet"
        )
    with _explained(hub):
        commit = _resolve_commit(hub)
        folder = _find_cached(hub, commit)
        if folder is not None and not streaming:
            dataset = _read_cached(hub, folder)
            return HubSplit(dataset, folder.name, len(dataset))
        builder = _ask_hub(hub, commit)
        if streaming:
            rows = count_rows(builder, hub.split)
            return HubSplit(builder.as_streaming_dataset(hub.split), builder.hash, rows)
        builder.download_and_prepare()
        dataset = builder.as_dataset(hub.split)
        return HubSplit(dataset, builder.hash, len(dataset))


def is_cached(hub: HubDataset) -> bool:
    """Check whether the revision of a dataset is ready on this machine.

    Nothing is looked up on the network.
    """
    try:
        commit = _resolve_commit(hub, local_files_only=True)
        return _find_cached(hub, commit) is not None
    except (HFValidationError, RevisionResolutionError, DataError):
        return False


def size_and_license(hub: HubDataset) -> tuple[int, str]:
    """Ask the Hub for the bytes of a dataset's repository and for its license.

    Raises:
        DataError: The Hub cannot be reached, or has no such dataset or revision.
    """
    with _explained(hub):
        info = HfApi().dataset_info(
            hub.name, revision=hub.revision, files_metadata=True, timeout=10
        )
    license = None
    if info.card_data:
        license = info.card_data.to_dict().get("license")
    files = info.siblings or []
    size = sum(file.size or 0 for file in files)
    return size, str(license or "unknown")


def _resolve_commit(hub: HubDataset, *, local_files_only: bool = False) -> str | None:
    """Return the commit of a revision; None: offline, and any cached commit will do."""
    try:
        revision = HfApi().resolve_revision(
            hub.name,
            repo_type="dataset",
            revision=hub.revision,
            local_files_only=local_files_only,
        )
        return revision.resolved
    except RevisionResolutionError:
        # Another program may have cached it, without a note of what its branches are.
        if hub.revision is None and _find_cached(hub, None) is not None:
            return None
        raise


def _find_cached(hub: HubDataset, commit: str | None) -> Path | None:
    """Find the prepared folder of a commit; None for ``commit`` stands for the newest one."""
    # The library's own rule for the names of its folders.
    owner, _, name = hub.name.rpartition("/")
    folder = datasets.naming.camelcase_to_snakecase(name)
    if owner:
        folder = f"{owner}___{folder}"
    cache = Path(datasets.config.HF_DATASETS_CACHE).expanduser()
    found = []
    for path in (cache / folder).glob(f"{hub.config or '*'}/*/{commit or '*'}"):
        if path.suffix != ".incomplete" and (path / "dataset_info.json").is_file():
            found.append(path)
    configs = sorted({path.parts[-3] for path in found})
    if hub.config is None and len(configs) > 1:
        raise DataError(_several(hub, configs))
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def _read_cached(hub: HubDataset, folder: Path) -> datasets.Dataset:
    """Read a split as the library prepared it, without asking the Hub."""
    info = datasets.DatasetInfo.from_directory(str(folder))
    reader = datasets.arrow_reader.ArrowReader(str(folder), info)
    return datasets.Dataset(**reader.read(info.dataset_name, hub.split, info.splits.values()))


@contextmanager
def _explained(hub: HubDataset) -> Iterator[None]:
    """Turn what the Hub's client raises into one line that says what to do."""
    try:
        yield
    except DataError:
        raise
    # The client raises dozens of types.
    except Exception as error:
        raise DataError(_explain(hub, error)) from error


def _ask_hub(hub: HubDataset, commit: str | None) -> datasets.DatasetBuilder:
    """Ask the Hub what a commit holds; nothing but its description is downloaded."""
    # Asked first: the library hides what the Hub answers, and without a network tries for long.
    HfApi().auth_check(hub.name, repo_type="dataset")
    HfApi().dataset_info(hub.name, revision=commit, timeout=10)
    builder = datasets.load_dataset_builder(hub.name, name=hub.config, revision=commit)
    if builder.hash != commit:
        # It lost the network on the way, and took another commit from the cache.
        raise DataError(_unreachable(hub))
    return builder


def _explain(hub: HubDataset, error: Exception) -> str:
    """Explain an error, by the first of its causes that has a known type."""
    for cause in causes(error):
        if isinstance(cause, HFValidationError):
            return f'{hub.name} - no name of a dataset; the Hub\'s names are "owner/name"'
        if isinstance(cause, GatedRepoError):
            return _gated(hub)
        if isinstance(cause, RevisionNotFoundError):
            return (
                f"{hub.name} - the dataset has no revision {hub.revision!r}; "
                f"see {_PAGE}/{hub.name}/commits/main"
            )
        if isinstance(cause, RepositoryNotFoundError):
            return (
                f"{hub.name} - no such dataset on the Hub, or a private one; check its name, or "
                'run "hf auth login"'
            )
        if isinstance(cause, HfHubHTTPError):
            return f"{hub} - the Hub refused: {first_line(cause)}"
        if is_unreachable(cause):
            return _unreachable(hub)
        if "Config name is missing" in str(cause):
            return _several(hub, _listed(cause))
    message = " ".join(str(error).split()) or type(error).__name__
    return f"{hub} (split {hub.split!r}) - cannot be loaded: {message}"


def _gated(hub: HubDataset) -> str:
    message = f"{hub.name} - gated: accept the terms at {_PAGE}/{hub.name}"
    if get_token() is None:
        return f'{message}, then run "hf auth login"'
    return f"{message} with the account that your token belongs to"


def _listed(error: BaseException) -> list[str]:
    """Read the configurations that the library's message lists."""
    _, _, tail = str(error).partition("[")
    names, _, _ = tail.partition("]")
    return [name.strip(" '\"") for name in names.split(",")]


def _several(hub: HubDataset, configs: list[str]) -> str:
    return (
        f"{hub.name} - has several configurations: {', '.join(configs)}; choose one with "
        f'config = "{configs[0]}"'
    )


def _unreachable(hub: HubDataset) -> str:
    return (
        f"{hub} - the Hub cannot be reached and this is not in the cache; go online once, or fetch "
        f'it elsewhere with "hf download --repo-type dataset {hub.name}" and point imagefolder or '
        "parquet at the files"
    )
