"""Load datasets of the Hugging Face Hub, or just look for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets

from distillkit.errors import DataError, first_line


def load_from_hub(
    hub: str,
    revision: str | None,
    split: str,
) -> Any:
    """Load one split of a dataset from the local cache, or download it.

    Args:
        hub: ``owner/name``.
        revision: branch, tag or commit.
        split: name of the split.

    Raises:
        DataError: there is no such dataset, revision or split, or the Hub cannot be reached.
    """
    if Path(hub).exists():
        raise DataError(
            f"{hub} - a local file or folder, not a dataset on the Hub; use imagefolder or parquet"
        )
    try:
        return datasets.load_dataset(hub, revision=revision, split=split)
    except ConnectionError as error:
        raise DataError(_unreachable(hub)) from error
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DataError(_not_found(hub, revision)) from error
    # The Hub's client raises dozens of types.
    except Exception as error:
        raise DataError(
            f"{hub} (split {split!r}) - cannot be loaded: {first_line(error)}"
        ) from error


def is_cached(hub: str) -> bool:
    """Check whether a version of a dataset is ready on this machine.

    The network is not asked.
    """
    # The library's own rule for the names of its folders.
    owner, _, name = hub.rpartition("/")
    folder = datasets.naming.camelcase_to_snakecase(name)
    if owner:
        folder = f"{owner}___{folder}"
    cache = Path(datasets.config.HF_DATASETS_CACHE).expanduser()
    versions = (cache / folder).glob("*/*/*")
    return any(version.is_dir() and version.suffix != ".incomplete" for version in versions)


def size_and_license(hub: str, revision: str | None = None) -> tuple[int, str]:
    """Ask the Hub for the bytes of a dataset's repository and for its license.

    Raises:
        DataError: the Hub cannot be reached, or has no such dataset.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().dataset_info(hub, revision=revision, files_metadata=True, timeout=10)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise DataError(_not_found(hub, revision)) from error
    # The client raises its own errors, its HTTP library's and the system's.
    except Exception as error:
        raise DataError(_unreachable(hub)) from error
    license = None
    if info.card_data:
        license = info.card_data.to_dict().get("license")
    files = info.siblings or []
    size = sum(file.size or 0 for file in files)
    return size, str(license or "unknown")


def _unreachable(hub: str) -> str:
    return (
        f"{hub} - the Hub cannot be reached and the dataset is not in the cache; go online once, "
        f'or fetch it elsewhere with "hf download --repo-type dataset {hub}" and point imagefolder '
        "or parquet at the files"
    )


def _not_found(hub: str, revision: str | None) -> str:
    name = hub if revision is None else f"{hub}@{revision}"
    return (
        f"{name} - no such dataset on the Hub, or one that needs a login; check its name and "
        'revision, or run "hf auth login"'
    )
