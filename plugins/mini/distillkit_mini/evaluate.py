"""Measures the mini teachers on the packaged test photographs and prints the table of the model card.

``python -m distillkit_mini.evaluate [--task lle] [--weights DIR]``: nine 96-pixel crops of each photograph, degraded as in training
with a fixed seed; PSNR over RGB rounded to 8 bits (in low light also after GT-mean), and shift-tolerant LPIPS of two networks: mean
± standard error over the crops.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from distillkit import PerceptualDistance, psnr
from distillkit_mini.crops import read_photo
from distillkit_mini.models import MiniModel
from distillkit_mini.photos import PHOTOS, photo_path
from distillkit_mini.plugin import SHIPPED, distillkit_teachers
from distillkit_mini.train import COURSES, plugin_thing

CROP, ROWS, SEED, BATCH = 96, 3, 0, 9
Distance = Callable[[Tensor, Tensor], Tensor]
ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def evaluation_pairs(task: str = "sr4x") -> tuple[Tensor, Tensor]:
    """Inputs and clean crops (45, 3, 96, 96) in [-1, 1]: three by three evenly spaced of every test photograph."""
    crops = []
    for package, name in PHOTOS["test"]:
        photo = read_photo(photo_path(package, name)).float() / 127.5 - 1
        tops, lefts = (
            torch.linspace(0, side - CROP, ROWS).long().tolist() for side in photo.shape[1:]
        )
        crops += [photo[:, top : top + CROP, left : left + CROP] for top in tops for left in lefts]
    gt = torch.stack(crops)
    return COURSES[task].degradation()(gt, torch.Generator().manual_seed(SEED)), gt


def restorations(lq: Tensor, faithful: MiniModel, realistic: MiniModel) -> dict[str, Tensor]:
    """By name: the task's guess, the teachers, and ``linear:alpha``, which is ``alpha faithful + (1 - alpha) realistic``."""
    f, r = (
        model.restore(lq, torch.Generator().manual_seed(SEED)) for model in (faithful, realistic)
    )
    combinations = {f"linear:{alpha:g}": alpha * f + (1 - alpha) * r for alpha in ALPHAS}
    return {
        faithful.task.guess_name: faithful.task.guess(lq),
        "faithful": f,
        "realistic": r,
    } | combinations


def eight_bits(image: Tensor) -> Tensor:
    """What a saved file holds of an image, in [-1, 1]."""
    return ((image.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


PSNR: dict[str, Callable[[], Distance]] = {"PSNR": psnr}
AFTER_GT_MEAN: dict[str, Callable[[], Distance]] = {
    "PSNR, GT-mean": partial(plugin_thing, "metrics", "lowlight/psnr-gtmean")
}
PERCEPTUAL: dict[str, Callable[[], Distance]] = {
    "ST-LPIPS-Alex": lambda: PerceptualDistance("alex"),
    "ST-LPIPS-VGG": lambda: PerceptualDistance("vgg"),
}
METRICS = {"sr4x": PSNR | PERCEPTUAL, "lle": PSNR | AFTER_GT_MEAN | PERCEPTUAL}
"""By task: name -> what builds the metric."""


@torch.no_grad()
def measure(
    faithful: MiniModel,
    realistic: MiniModel,
    task: str = "sr4x",
    metrics: Iterable[str] | None = None,
) -> dict[str, dict[str, Tensor]]:
    """Method -> metric -> one value a crop, (45,). ``metrics``: some of the task's; default: all."""
    lq, gt = evaluation_pairs(task)
    images = {
        method: eight_bits(image) for method, image in restorations(lq, faithful, realistic).items()
    }
    distances = {metric: METRICS[task][metric]() for metric in metrics or METRICS[task]}
    return {
        method: {
            metric: torch.cat(
                [distance(a, b) for a, b in zip(image.split(BATCH), gt.split(BATCH), strict=True)]
            )
            for metric, distance in distances.items()
        }
        for method, image in images.items()
    }


def table(measured: dict[str, dict[str, Tensor]]) -> str:
    """A Markdown table, mean ± standard error."""
    metrics = list(next(iter(measured.values())))
    rows = [["method", *metrics], ["---"] * (len(metrics) + 1)]
    for method, values in measured.items():
        cells = []
        for metric in metrics:
            v, digits = values[metric], 2 if metric.startswith("PSNR") else 4
            cells.append(f"{v.mean():.{digits}f} ± {v.std() / len(v) ** 0.5:.{digits}f}")
        rows.append([method, *cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def teacher(name: str, **options: object) -> MiniModel:
    """A teacher as the plugin offers it, with options in place of its defaults."""
    spec = next(spec for spec in distillkit_teachers() if spec.name == name)
    return spec.create(spec.config(**options)).eval()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m distillkit_mini.evaluate", description=__doc__)
    parser.add_argument(
        "--task",
        choices=sorted(COURSES),
        default="sr4x",
        help="what the models undo (default: %(default)s)",
    )
    parser.add_argument(
        "--weights", type=Path, default=SHIPPED, help="folder of the weights of both teachers"
    )
    parser.add_argument(
        "--steps", type=int, help="steps of the faithful teacher (default: as the plugin offers it)"
    )
    args = parser.parse_args()
    faithful, realistic = COURSES[args.task].names
    steps = {} if args.steps is None else {"steps": args.steps}
    pair = (
        teacher(faithful, weights=args.weights / f"{faithful}.safetensors", **steps),
        teacher(realistic, weights=args.weights / f"{realistic}.safetensors"),
    )
    print(table(measure(*pair, args.task)))


if __name__ == "__main__":
    main()
