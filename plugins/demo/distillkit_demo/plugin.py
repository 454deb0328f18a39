"""The command ``distillkit demo``. Torch is imported only when it runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from distillkit import choose_trained, hookimpl

logger = logging.getLogger("distillkit")
"""Lines of status, which ``-q`` silences."""


@hookimpl
def distillkit_commands(app: typer.Typer) -> None:
    app.command("demo")(demo)


# Typer reads one option from each parameter.
def demo(  # noqa: PLR0913
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN",
            help="A run's folder, an exported folder, a plugin's trained student or a Hub "
            "repository; by default the trained student of the plugins, where there is one.",
        ),
    ] = None,
    title: Annotated[
        str | None, typer.Option(help="Give the page this heading; by default the name of RUN.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Listen on this address; 0.0.0.0 lets the whole network in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Listen on this port.")] = 7860,
    megapixels: Annotated[
        float, typer.Option(min=0.001, help="Restore up to this many million pixels at once.")
    ] = 1.0,
    megabytes: Annotated[
        float, typer.Option(min=0.001, help="Accept files of up to this many megabytes.")
    ] = 50.0,
    memory: Annotated[
        float, typer.Option(min=1, help="Let photos that wait take at most this many megabytes.")
    ] = 1000.0,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Answer to this name of the machine too, as behind a proxy of yours. Repeatable.",
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Compute on cpu, cuda, cuda:1, ... By default on a GPU where there is one."
        ),
    ] = None,
) -> None:
    """Show a student as a web page on this machine.

    Open a photo, move the tradeoff or paint it, compare, download.
    """
    from distillkit import Restorer
    from distillkit_demo.server import serve, wait_for_stop_signal

    if run is None:
        run = choose_trained("the argument RUN")
    logger.info(f"loading {run}")
    server = serve(
        Restorer.from_pretrained(run, device),
        title or Path(run).resolve().name,
        host=host,
        port=port,
        max_pixels=round(megapixels * 1e6),
        max_upload=round(megabytes * 2**20),
        max_memory=round(memory * 2**20),
        allowed_hosts=allow_host or (),
    )
    with server as address:
        typer.echo(f"open {address} (Ctrl-C stops it)")
        wait_for_stop_signal()
