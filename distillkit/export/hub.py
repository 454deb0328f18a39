"""Upload folders to the Hugging Face Hub, each in one commit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

from distillkit.errors import DistillkitError, Interrupted, first_line
from distillkit.export.model_card import LOCAL_FOLDER
from distillkit.files.hub import causes, is_unreachable

Kind = Literal["model", "dataset", "space"]

DEFAULT_CONFIG = "data"
"""The folder of the only configuration of a data set, which a recipe need not name."""
PARQUET = re.compile(rf'parquet = "{LOCAL_FOLDER}/([^/"]+)/(\w+)-\*\.parquet"')
"""Where a card says how a recipe reads the parquet files of a folder."""
KEPT = ".gitattributes"
"""The Hub's own file in a repository, which says how large files are stored."""
NAMES_SHOWN = 3
LOGIN = 'run "hf auth login", or set HF_TOKEN to a token that may write'
MARKS: dict[Kind, tuple[str, str]] = {
    "model": ("model_index.json", "distillkit export RUN -o DIR"),
    "dataset": ("*/*.parquet", "distillkit degrade RECIPE -o DIR"),
    "space": ("index.html", "distillkit export RUN --web DIR"),
}
"""By kind: the files that a folder is recognized by, and the command that writes such a folder."""


@dataclass(frozen=True)
class Repository:
    """A repository to upload to.

    Args:
        name: ``owner/name``.
        kind: What it is on the Hub.
        private: Whether a new one is private.
        replace: Whether files that are there give way to the new ones.
    """

    name: str
    kind: Kind = "model"
    private: bool = False
    replace: bool = False


def is_exported(folder: Path, kind: Kind) -> bool:
    """Whether a folder is a student, a data set or a page that can be uploaded."""
    pattern, _ = MARKS[kind]
    return any(folder.glob(pattern))


def check_repository(repository: Repository) -> Any:
    """Refuse a repository that cannot be uploaded to, before any work is done for it.

    Returns:
        What the Hub knows of it; None: there is no such one.

    Raises:
        DistillkitError: Its name has no owner, nobody is logged in, the Hub cannot be reached, or
            the repository holds files and is not to be replaced.
    """
    owner, slash, name = repository.name.partition("/")
    if not (owner and slash and name):
        raise DistillkitError(
            f'{repository.name} - names no owner; the Hub\'s names are "owner/name"'
        )
    if get_token() is None:
        raise DistillkitError(f"{repository.name} - nobody is logged in to the Hub: {LOGIN}")
    with _explained(repository):
        return _find(HfApi(), repository)


def upload(folder: Path, repository: Repository) -> str:
    """Upload a folder; a repository that is not there is created.

    All files come in one commit: the repository holds either all of them or what it held before.
    In the README, the repository's name takes the place of the folder's.

    Args:
        folder: An exported student, pairs or a page.
        repository: Where to.

    Returns:
        The repository's address.

    Raises:
        DistillkitError: The folder is of another kind, the Hub refuses or cannot be reached.
        Interrupted: By the user.
    """
    if not is_exported(folder, repository.kind):
        pattern, command = MARKS[repository.kind]
        raise DistillkitError(
            f"{folder} - holds no {repository.kind} (no {pattern}); make one: {command}"
        )
    known = check_repository(repository)
    api = HfApi()
    with _explained(repository):
        if known is None:
            api.create_repo(
                repository.name,
                repo_type=repository.kind,
                private=repository.private,
                space_sdk="static" if repository.kind == "space" else None,
            )
        added = _list_files(folder)
        removed = sorted(_foreign_files(known) - added.keys())
        commit = api.create_commit(
            repository.name,
            [
                *[CommitOperationAdd(name, _content(added[name], repository)) for name in added],
                *[CommitOperationDelete(name, is_folder=False) for name in removed],
            ],
            commit_message=f"Add a {repository.kind} made by distillkit",
            repo_type=repository.kind,
            # What somebody else adds meanwhile is neither removed nor mixed with this.
            parent_commit=known.sha if known else None,
        )
    return str(commit.repo_url)


def _find(api: HfApi, repository: Repository) -> Any:
    """Ask the Hub what a repository holds; None: there is no such one.

    Raises:
        DistillkitError: It holds files, and is not to be replaced.
    """
    try:
        known = api.repo_info(repository.name, repo_type=repository.kind)
    except RepositoryNotFoundError:
        return None
    files = sorted(_foreign_files(known))
    if files and not repository.replace:
        shown = ", ".join(files[:NAMES_SHOWN])
        more = ", ..." if len(files) > NAMES_SHOWN else ""
        raise DistillkitError(
            f"{repository.name} - holds {len(files)} files already ({shown}{more}): choose a new "
            "name, or replace them with --replace; the Hub keeps their history"
        )
    return known


def _foreign_files(known: Any) -> set[str]:
    """Name the files of a repository that somebody put there."""
    if known is None:
        return set()
    return {file.rfilename for file in known.siblings or []} - {KEPT}


def _list_files(folder: Path) -> dict[str, Path]:
    """Find the files of a folder by their names in the repository."""
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        # Hidden files are the file manager's.
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            files[name.as_posix()] = path
    return files


def _content(file: Path, repository: Repository) -> Path | bytes:
    """Return what is uploaded of a file."""
    if file.name != "README.md":
        return file
    return address_card(file.read_text(encoding="utf-8"), repository.name).encode()


def address_card(card: str, name: str) -> str:
    """Put a repository's name where a card says which folder it lies in."""
    # A recipe reads parquet files of a folder, but a data set of the Hub by its name.
    card = PARQUET.sub(partial(_hub_source, name), card)
    # Plain diffusers fetches only files that it knows: it is given all of the repository.
    card = card.replace(f'folder = "{LOCAL_FOLDER}"', f'folder = snapshot_download("{name}")')
    return card.replace(LOCAL_FOLDER, name)


def _hub_source(name: str, parquet: re.Match[str]) -> str:
    """Write the keys of a recipe that read on the Hub what it reads from parquet files."""
    config, split = parquet.groups()
    lines = [f'hub = "{name}"', f'split = "{split}"']
    if config != DEFAULT_CONFIG:
        lines.insert(1, f'config = "{config}"')
    return "\n".join(lines)


@contextmanager
def _explained(repository: Repository) -> Iterator[None]:
    """Turn what the Hub's client raises into one line that says what to do."""
    try:
        yield
    except DistillkitError:
        raise
    except KeyboardInterrupt:
        raise Interrupted(
            f"{repository.name} - interrupted: it holds all of the upload or nothing of it; to "
            "upload again, repeat the command"
        ) from None
    # The client raises its own errors, its HTTP library's and the system's.
    except Exception as error:
        # Nor may a traceback show the token.
        raise DistillkitError(_hide_token(_explain(repository, error))) from None


def _explain(repository: Repository, error: Exception) -> str:
    name = repository.name
    for cause in causes(error):
        if isinstance(cause, HFValidationError):
            return f"{name} - no name of a repository: {first_line(cause)}"
        if is_unreachable(cause):
            return f"{name} - not uploaded: the Hub cannot be reached; repeat the command later"
        if isinstance(cause, HfHubHTTPError):
            return f"{name} - not uploaded: {_explain_refusal(repository, cause)}"
    return f"{name} - not uploaded: {first_line(error)}"


def _explain_refusal(repository: Repository, error: HfHubHTTPError) -> str:
    owner = repository.name.partition("/")[0]
    status = error.response.status_code
    if status == 401:
        return f"the Hub does not accept the token; {LOGIN}"
    if status == 403:
        return f"the token may not write to {owner} ({first_line(error)}); {LOGIN}"
    if status in (409, 412):
        return "somebody else changed it meanwhile; look at it, then repeat the command"
    return f"the Hub refused: {first_line(error)}"


def _hide_token(text: str) -> str:
    """Cut the user's token out of a text, whoever put it there."""
    token = get_token()
    return text if token is None else text.replace(token, "(token)")
