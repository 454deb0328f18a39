"""The command line: one short function per command. Heavy imports stay inside them, so that help is instant."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import distillkit
from distillkit.cli.arguments import Device, folders_of, numbers_of, pair_of, settings_of
from distillkit.cli.cache import cache_app
from distillkit.cli.plugins import plugins_app
from distillkit.cli.restore import restore_command
from distillkit.errors import DistillkitError, Interrupted
from distillkit.inference.files import IMAGE_FILES

app = typer.Typer(
    help="Distill a faithful and a realistic restoration teacher into one student with a knob between them.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Plugins add commands: `distillkit demo` comes with distillkit[demo], "
    "`distillkit restore-video` with distillkit[video].",
)
EXTRA_OF_COMMAND = {"demo": "demo", "restore-video": "video"}
"""The extra of this distribution that brings a plugin's command."""
recipe_app = typer.Typer(
    help="Check a recipe, or show what it amounts to.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(plugins_app, name="plugins")
app.add_typer(recipe_app, name="recipe")
app.add_typer(cache_app, name="cache")

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="a TOML file")]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="change a key; VALUE is TOML (stage1.steps=50)"
    ),
]


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"distillkit {distillkit.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None: ...


@app.command()
def run(
    recipe: RecipeFile,
    set_: Sets = None,
    out: Annotated[
        Path | None, typer.Option(help="the run's folder; default: runs/<recipe name>")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on from the newest checkpoint in the run's folder")
    ] = False,
    fork: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="start in --out from where another run (its folder, or one of its checkpoints) stands",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="one step of each stage, a checkpoint, an image evaluated"),
    ] = False,
) -> None:
    """Distill a student: both stages, export, evaluation and a report, all in one folder."""
    if fork is not None and (out is None or dry_run):
        raise DistillkitError(
            "--fork makes a new folder: give it by --out, and leave out --dry-run"
        )
    resolved = _load(recipe, set_)
    import distillkit.runs.run as engine

    if dry_run:
        engine.dry_run(resolved)
        typer.echo("dry run: every part of the recipe works")
        return
    folder = out or Path("runs") / resolved.recipe.name
    report = engine.run_recipe(resolved, folder, resume=resume, fork=fork)
    if os.environ.get("RANK", "0") == "0":
        typer.echo(f"done: {folder}" + (f"; open {report}" if report else ""))


app.command(
    "restore", help="Restore images with a distilled student, or with any registered model."
)(restore_command(IMAGE_FILES, "distillkit.inference.files:restore_image"))


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="a run's folder")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="a new folder")] = None,
    onnx: Annotated[
        Path | None, typer.Option(metavar="FILE", help="one ONNX graph instead of a folder")
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="plain weights at one --tradeoff, without a knob")
    ] = False,
    tradeoff: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="of --merge or --onnx: 0 most realistic ... 1 most faithful"
        ),
    ] = None,
) -> None:
    """Write a student for others to use: for distillkit, diffusers and peft, with a model card; then load and compare it.

    An ONNX graph has the tradeoff as an input, unless --tradeoff fixes it.
    """
    if (output is None) == (onnx is None):
        raise DistillkitError("give either -o, for a folder, or --onnx, for a graph")
    if onnx is not None:
        if merge:
            raise DistillkitError("--merge is for folders; a graph is merged by --tradeoff alone")
        from distillkit.export.onnx import export_onnx

        typer.echo(export_onnx(run, onnx, tradeoff=tradeoff))
        typer.echo(f"done: {onnx}")
        return
    assert output is not None
    if merge != (tradeoff is not None):
        raise DistillkitError(
            "--merge and --tradeoff need each other: plain weights have one tradeoff"
        )
    from distillkit.export.folder import export as write

    for line in write(run, output, merge_at=tradeoff):
        typer.echo(line)
    typer.echo(f"done: {output}")


@app.command()
def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="a run's folder, or an exported one")],
    repository: Annotated[
        str, typer.Argument(metavar="OWNER/NAME", help="a model repository on the Hugging Face Hub")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="make a new repository private")
    ] = False,
) -> None:
    """Export a student and upload it to the Hub, logged in by HF_TOKEN or `hf auth login`."""
    import tempfile

    from distillkit.export.folder import export as write
    from distillkit.export.folder import push as upload

    with tempfile.TemporaryDirectory(prefix="distillkit-") as folder:
        exported = run if (run / "model_index.json").is_file() else Path(folder) / "exported"
        if exported != run:
            write(run, exported)
        typer.echo(f"done: {upload(exported, repository, private=private)}")


@app.command("eval")
def evaluate(
    run_dir: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="the folder of a finished run")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            "--method",
            metavar="NAME=DIR",
            help="a method's images; NAME@0.5 for one tradeoff; may be repeated",
        ),
    ] = None,
    gt: Annotated[Path | None, typer.Option(help="without RUN: folder of the ground truth")] = None,
    lq: Annotated[
        Path | None,
        typer.Option(
            help="without RUN: folder of the inputs, to be shown and enlarged bicubically"
        ),
    ] = None,
    metrics: Annotated[
        str, typer.Option(help="without RUN: metrics, with commas between them")
    ] = "psnr-y,ssim-y,stlpips-alex",
    out: Annotated[Path | None, typer.Option(help="without RUN: folder of the results")] = None,
    only: Annotated[
        str, typer.Option(metavar="PATTERN", help="without RUN: the images to take")
    ] = "*",
    combine: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="add linear combinations alpha A + (1 - alpha) B"),
    ] = None,
    alphas: Annotated[
        str | None, typer.Option(help="of --combine; default: 0.1,0.2,...,0.9")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="the method that others are compared with in pairs"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="change a recipe's key; without RUN: METRIC.OPTION=VALUE",
        ),
    ] = None,
    device: Device = None,
) -> None:
    """Judge a run's student on held-out images again, or any methods by folders of their images (--gt, --method, --out)."""
    folders, pair = folders_of(method or []), pair_of(combine)
    if run_dir is not None:
        if gt or lq or out:
            raise DistillkitError(
                "--gt, --lq and --out are for folders of images: a run has its own; leave them out, or RUN"
            )
        if not (run_dir / "recipe.toml").is_file():
            raise DistillkitError(f"{run_dir} - not a run's folder (no recipe.toml)")
        given = {
            "alphas": alphas and f"[{alphas}]",
            "reference": reference and json.dumps(reference),
        }
        changes = [f"evaluation.{key}={value}" for key, value in given.items() if value]
        resolved = _load(run_dir / "recipe.toml", [*(set_ or []), *changes])
        from distillkit.runs.evaluate import evaluate_run

        report = evaluate_run(resolved, run_dir, device, method_folders=folders, combine=pair)
        typer.echo(f"open {report}")
        return
    if gt is None or out is None or not folders:
        raise DistillkitError(
            "give a run's folder, or folders of images by --gt, at least one --method NAME=DIR, and --out"
        )
    settings, weights = (
        settings_of(set_ or []),
        numbers_of("--alphas", alphas or "0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9"),
    )
    from distillkit.runs.compare import CompareOptions, compare_folders

    options = CompareOptions(
        lq=lq,
        metrics=[name.strip() for name in metrics.split(",")],
        metric_settings=settings,
        pattern=only,
        combine=pair,
        alphas=weights,
        reference=reference,
        device=device,
    )
    report = compare_folders(gt, folders, out, options)
    typer.echo(f"open {report}")


@app.command()
def sweep(
    recipe: RecipeFile,
    grid: Annotated[
        list[str],
        typer.Option(
            "--grid", metavar="KEY=V1,V2,...", help="values of a key; grids are multiplied"
        ),
    ],
    set_: Sets = None,
    out: Annotated[
        Path | None, typer.Option(help="folder of the runs; default: sweeps/<recipe file's name>")
    ] = None,
) -> None:
    """Run a recipe at every point of a grid; called again, go on where it stopped. Writes a table of all that is finished."""
    from distillkit.runs.sweep import plan_sweep, run_sweep

    folder = out or Path("sweeps") / recipe.stem
    runs = plan_sweep(recipe, grid, set_ or [], folder)
    failures = run_sweep(runs, folder)
    typer.echo(f"done: {folder / 'summary.md'}")
    for failure in failures:
        typer.echo(f"failed: {failure}", err=True)
    if failures:
        raise typer.Exit(1)


@app.command()
def fetch(recipe: RecipeFile, set_: Sets = None) -> None:
    """Download every weight file and dataset that a recipe needs; interrupted downloads resume, hashes are checked."""
    resolved = _load(recipe, set_)
    from distillkit.runs.preflight import fetch_all

    if not fetch_all(resolved, typer.echo):
        raise typer.Exit(1)


@app.command()
def bench(
    recipe: RecipeFile,
    set_: Sets = None,
    steps: Annotated[int, typer.Option(min=1, help="timed steps of each stage")] = 5,
    warmup: Annotated[int, typer.Option(min=0, help="steps before them")] = 2,
    images: Annotated[
        int, typer.Option(min=0, help="images of the crop's size restored; not with --compare")
    ] = 5,
    look: Annotated[
        bool, typer.Option(help="three more steps: time by part, passes, FLOPs")
    ] = True,
    compare: Annotated[
        list[str] | None,
        typer.Option(
            "--compare",
            metavar="KEY=VALUE",
            help="measure with this set, too; several: 'a=1; b=2'; may be repeated",
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="of --compare: times that all settings are measured in turn")
    ] = 1,
    json_: Annotated[
        Path | None,
        typer.Option("--json", help="a file for the results, with machine and versions"),
    ] = None,
) -> None:
    """Measure training steps and restoring: time by part, memory, network passes, FLOPs against what the machine can do."""
    resolved = _load(recipe, set_)
    from distillkit.bench.report import as_comparison, as_text

    found: Any
    if compare:
        from distillkit.bench.compare import compare as measure_all

        found = measure_all(
            recipe, set_ or [], compare, steps=steps, warmup=warmup, rounds=rounds, look=look
        )
        typer.echo(as_comparison(found))
    else:
        from distillkit.bench.recipe import bench as measure

        found = measure(resolved, steps=steps, warmup=warmup, images=images, look=look)
        typer.echo(as_text(found))
    if json_ is not None:
        json_.write_text(json.dumps(found, indent=2) + "\n")


@app.command()
def doctor(
    recipe: Annotated[
        Path | None,
        typer.Argument(metavar="[RECIPE]", help="a TOML file: also tell what a run of it takes"),
    ] = None,
    set_: Sets = None,
    memory: Annotated[
        float | None,
        typer.Option(min=0, help="GiB that a run may take; default: what the device has"),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="make a step at the recipe's own crop, too, and compare")
    ] = False,
) -> None:
    """Show versions, devices and plugins, and what is wrong with them; of a recipe, what is missing and what a step takes."""
    resolved = _load(recipe, set_) if recipe else None
    from distillkit.testing.doctor import diagnose

    lines, healthy = diagnose()
    typer.echo("\n".join(lines))
    if resolved is not None:
        from distillkit.bench.advice import examine

        healthy &= examine(
            resolved,
            set_ or [],
            None if memory is None else memory * 2**30,
            check=check,
            say=typer.echo,
        )
    if not healthy:
        raise typer.Exit(1)


@recipe_app.command()
def validate(recipe: RecipeFile, set_: Sets = None) -> None:
    """Report everything that is wrong with a recipe, without loading a weight."""
    resolved = _load(recipe, set_)
    typer.echo(
        f"{recipe} is valid: {', '.join(f'{k} = {c.full_name}' for k, c in resolved.components.items())}"
    )


@recipe_app.command()
def show(
    recipe: RecipeFile,
    set_: Sets = None,
    origin: Annotated[
        bool, typer.Option("--origin", help="one line a value, with the file and line that set it")
    ] = False,
) -> None:
    """Print the whole recipe with everything it extends and every default."""
    resolved = _load(recipe, set_)
    typer.echo(resolved.with_origin() if origin else resolved.to_toml())


@recipe_app.command()
def schema() -> None:
    """Print the JSON schema of recipes, with the options of every installed plugin."""
    from distillkit.recipe.json_schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def _load(recipe: Path, overrides: list[str] | None) -> Any:
    from distillkit.recipe.load import load_recipe

    return load_recipe(recipe, overrides or ())


def _command_names() -> set[str]:
    commands = {c.name or c.callback.__name__ for c in app.registered_commands if c.callback}
    groups = {group.name for group in app.registered_groups if group.name}
    return commands | groups


def _add_plugin_commands(arguments: list[str]) -> None:
    """Load the plugins' own commands, only if the command asked for is none of the engine's.

    Raises:
        DistillkitError: The command comes with an extra that is not installed.
    """
    if not arguments or arguments[0].startswith("-") or arguments[0] in _command_names():
        return
    from distillkit.plugins.manager import load_plugins

    load_plugins().notify("distillkit_commands", app=app)
    command = arguments[0]
    if command in EXTRA_OF_COMMAND and command not in _command_names():
        extra = EXTRA_OF_COMMAND[command]
        raise DistillkitError(
            f"distillkit {command} is not installed: pip install 'distillkit[{extra}]'"
        )


def main() -> None:
    """Run the command line. Exit codes: 0 done, 1 done in part, 2 ended by an error that says what to do, 130 interrupted."""
    try:
        _add_plugin_commands(sys.argv[1:])
        app(prog_name="distillkit")
    except DistillkitError as e:
        several = int(os.environ.get("WORLD_SIZE") or 1) > 1
        typer.echo(
            f"error{' (process ' + os.environ.get('RANK', '?') + ')' if several else ''}: {e}",
            err=True,
        )
        sys.exit(2)
    except Interrupted as e:
        typer.echo(str(e), err=True)
        sys.exit(130)
    except KeyboardInterrupt:
        sys.exit(130)
