"""Measures the mini teachers on the test photographs: the table of the model card.

``python -m distillkit_mini.evaluate [--task lle] [--weights DIR]`` takes nine 96-pixel crops of
each photograph, degraded as in training with a fixed seed, and prints for each metric the mean
± standard error over the crops.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from distillkit import ModelInput, read_image
from distillkit_mini.models import MiniModel
from distillkit_mini.options import SHIPPED
from distillkit_mini.photos import find_photos
from distillkit_mini.plugin import distillkit_teachers
from distillkit_mini.training_setups import TRAINING_SETUPS, create_from_plugin

CROP = 96
ROWS = 3
"""Crops of a photograph along each side."""
SEED = 0
BATCH = 9
ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)

PERCEPTUAL = {"ST-LPIPS-Alex": "distillkit/stlpips-alex", "ST-LPIPS-VGG": "distillkit/stlpips-vgg"}
METRICS = {
    "sr4x": {"PSNR": "distillkit/psnr", **PERCEPTUAL},
    "lle": {"PSNR": "distillkit/psnr", "PSNR, GT-mean": "lowlight/psnr-gtmean", **PERCEPTUAL},
}
"""The metrics of each task: column of the table -> name in a recipe."""

Values = dict[str, Tensor]
"""One value per crop, by metric."""


def evaluation_crops(task: str = "sr4x") -> tuple[Tensor, Tensor]:
    """Cut evenly spaced crops from every test photograph, and degrade them.

    Returns:
        Inputs, and clean crops (9 for each photograph, 3, 96, 96), in [-1, 1].
    """
    crops: list[Tensor] = []
    for path in find_photos("test"):
        photo = read_image(path)
        height, width = photo.shape[1:]
        for top in _evenly_spaced(height):
            for left in _evenly_spaced(width):
                crops.append(photo[:, top : top + CROP, left : left + CROP])
    gt = torch.stack(crops)
    degradation = TRAINING_SETUPS[task].degradation()
    return degradation(gt, _generator()), gt


def _evenly_spaced(length: int) -> list[int]:
    return torch.linspace(0, length - CROP, ROWS).long().tolist()


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def restore_crops(lq: Tensor, faithful: MiniModel, realistic: MiniModel) -> dict[str, Tensor]:
    """Restore crops by every method of the table.

    Returns:
        Images by method: the task's guess, the teachers, and ``linear:alpha``, which is
        ``alpha faithful + (1 - alpha) realistic``.
    """
    f = faithful.restore(ModelInput(lq), _generator())
    r = realistic.restore(ModelInput(lq), _generator())
    images = {
        faithful.task.guess_name: faithful.task.guess(lq),
        "faithful": f,
        "realistic": r,
    }
    for alpha in ALPHAS:
        images[f"linear:{alpha:g}"] = alpha * f + (1 - alpha) * r
    return images


@torch.no_grad()
def measure(
    faithful: MiniModel,
    realistic: MiniModel,
    crops: tuple[Tensor, Tensor],
    columns: Mapping[str, str],
) -> dict[str, Values]:
    """Measure two teachers and their linear combinations.

    Args:
        faithful: The faithful teacher.
        realistic: The realistic teacher.
        crops: Inputs and clean crops, as of :func:`evaluation_crops`.
        columns: Metrics, as in :data:`METRICS`.

    Returns:
        Values by method.
    """
    lq, gt = crops
    built = {name: create_from_plugin("metrics", metric) for name, metric in columns.items()}
    measured: dict[str, Values] = {}
    for method, image in restore_crops(lq, faithful, realistic).items():
        image = _round_to_8_bits(image)
        batches = list(zip(image.split(BATCH), gt.split(BATCH), strict=True))
        values: Values = {}
        for name, metric in built.items():
            values[name] = torch.cat([metric(restored, clean) for restored, clean in batches])
        measured[method] = values
    return measured


def _round_to_8_bits(image: Tensor) -> Tensor:
    """Round an image in [-1, 1] as a saved file does."""
    return ((image.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def format_table(measured: dict[str, Values]) -> str:
    """Format a Markdown table of mean ± standard error."""
    metrics = list(next(iter(measured.values())))
    rows = [["method", *metrics], ["---"] * (len(metrics) + 1)]
    for method, values in measured.items():
        rows.append([method, *(_format_cell(name, values[name]) for name in metrics)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _format_cell(metric: str, values: Tensor) -> str:
    digits = 4
    if metric.startswith("PSNR"):
        digits = 2
    error = values.std() / len(values) ** 0.5
    return f"{values.mean():.{digits}f} ± {error:.{digits}f}"


def build_teacher(name: str, **options: object) -> MiniModel:
    """Build a teacher as the plugin offers it, with other options than the defaults."""
    for spec in distillkit_teachers():
        if spec.name == name:
            return spec.create(spec.config(**options)).eval()
    raise ValueError(f"there is no mini teacher {name}")


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m distillkit_mini.evaluate", description=__doc__)
    parser.add_argument(
        "--task",
        choices=sorted(TRAINING_SETUPS),
        default="sr4x",
        help="what the models undo (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        default=SHIPPED,
        help="folder of the weights of both teachers",
    )
    parser.add_argument(
        "--steps",
        type=int,
        help="steps of the faithful teacher (default: as the plugin offers it)",
    )
    args = parser.parse_args()
    faithful, realistic = TRAINING_SETUPS[args.task].names
    options: dict[str, object] = {"weights": args.weights / f"{faithful}.safetensors"}
    if args.steps is not None:
        options["steps"] = args.steps
    teachers = (
        build_teacher(faithful, **options),
        build_teacher(realistic, weights=args.weights / f"{realistic}.safetensors"),
    )
    print(format_table(measure(*teachers, evaluation_crops(args.task), METRICS[args.task])))


if __name__ == "__main__":
    main()
