"""The command ``distillkit push``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from distillkit.cli.arguments import load_recipe
from distillkit.cli.export import Picture
from distillkit.errors import DistillkitError

if TYPE_CHECKING:
    from distillkit.export.hub import Kind


def push(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A run, or an exported folder; with --dataset also a recipe."
        ),
    ],
    repository: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="A repository on the Hugging Face Hub.")
    ],
    dataset: Annotated[
        bool, typer.Option("--dataset", help="Upload pairs, as `distillkit degrade` writes them.")
    ] = False,
    space: Annotated[
        bool, typer.Option("--space", help="Upload a page, as `distillkit export --web` writes it.")
    ] = False,
    picture: Picture = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace what the repository holds.")
    ] = False,
) -> None:
    """Upload a student, pairs or a page to the Hub.

    All files come in one commit. A run is exported first. Log in before: by HF_TOKEN, or by `hf
    auth login`.
    """
    if dataset and space:
        raise DistillkitError("give one of --dataset and --space")
    # Imported here: the Hub's client would delay the help of every command.
    from distillkit.export import hub
    from distillkit.files.atomic import scratch_folder

    kind: Kind = "model"
    if dataset:
        kind = "dataset"
    elif space:
        kind = "space"
    target = hub.Repository(repository, kind, private, replace)
    hub.check_repository(target)
    with scratch_folder() as scratch:
        folder = _make_folder(source, kind, picture, scratch / "folder")
        address = hub.upload(folder, target)
    typer.echo(f"done: {address}")


def _make_folder(source: str, kind: Kind, picture: Path | None, scratch: Path) -> Path:
    """Return the folder to upload: the given one, or one that is made of it."""
    from distillkit.export.folder import export_folder
    from distillkit.export.hub import is_exported

    is_ready = is_exported(Path(source), kind) or kind == "space"
    if picture is not None and (is_ready or kind != "model"):
        raise DistillkitError("--picture is for a run, whose model card is written now")
    if is_ready:
        return Path(source)
    if kind == "dataset":
        resolved = load_recipe(source, None)
        from distillkit.runs.degrade import write_pairs

        write_pairs(resolved, scratch)
    else:
        export_folder(source, scratch, picture=picture)
    return scratch
