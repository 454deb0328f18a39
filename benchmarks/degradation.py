"""Check what the Real-ESRGAN degradation does to photographs against what its presets say.

``python benchmarks/degradation.py FOLDER [--images 200] [--sheet sheet.png]``

Degrades the middle of each photograph once by each preset and prints a table: mean and spread of
every drawn parameter, its range and the published one, how often each random choice was made and
its published probability, and the PSNR of the small images against bicubic reduction. It fails
where a value is outside of its published range, or a mean is more than four standard errors from
the published one.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from distillkit import read_image, write_image
from distillkit.errors import DataError
from distillkit.metrics.distortion import psnr_from_mse
from distillkit_superres.degradation.draws import (
    Blur,
    Draws,
    GaussianBlur,
    Noise,
    Round,
    SincBlur,
    draw,
)
from distillkit_superres.degradation.options import (
    PRESETS,
    BicubicOptions,
    RealESRGANOptions,
    RoundOptions,
)
from distillkit_superres.degradation.pipeline import Bicubic, RealESRGAN

CELL = 2
"""Enlargement of the small images on the sheet."""
SHEET_COLUMNS = 12
"""Photographs on the sheet."""


@dataclass(frozen=True)
class Drawn:
    """Values of one parameter, and the uniform ranges that they are drawn from.

    Each range is drawn from as often as the others; a range may be a point.
    """

    values: Sequence[float]
    ranges: Sequence[tuple[float, float]]

    def problem(self) -> str | None:
        """Describe which of the values do not fit, if any."""
        if not self.values:
            return None
        low = min(a for a, _ in self.ranges)
        high = max(b for _, b in self.ranges)
        if min(self.values) < low or max(self.values) > high:
            drawn = f"{min(self.values):.4g} to {max(self.values):.4g}"
            return f"values from {drawn}, published {low:.4g} to {high:.4g}"
        # First and second moment of a uniform draw from [a, b], averaged over the ranges.
        mean = sum(a + b for a, b in self.ranges) / 2 / len(self.ranges)
        square = sum(a * a + a * b + b * b for a, b in self.ranges) / 3 / len(self.ranges)
        variance = max(square - mean**2, 0)
        error = math.sqrt(variance / len(self.values))
        off = abs(sum(self.values) / len(self.values) - mean)
        if off <= 4 * error + 1e-12:
            return None
        return f"mean is {off:.4g} from {mean:.4g}, {off / error:.1f} standard errors"

    def __str__(self) -> str:
        if not self.values:
            return "never drawn"
        mean, spread = _mean_and_spread(self.values)
        low = min(a for a, _ in self.ranges)
        high = max(b for _, b in self.ranges)
        drawn = f"{min(self.values):.2f}..{max(self.values):.2f}"
        return f"{mean:.2f} ± {spread:.2f}, {drawn} of {low:.2f}..{high:.2f}"


@dataclass(frozen=True)
class Share:
    """How often something happened, and its published probability."""

    happened: Sequence[bool]
    probability: float

    def problem(self) -> str | None:
        """Describe how the share does not fit, if it does not."""
        if not self.happened:
            return None
        p = self.probability
        error = math.sqrt(p * (1 - p) / len(self.happened))
        off = abs(self._share() - p)
        if off <= 4 * error + 1e-12:
            return None
        return f"share is {off:.3f} from {p}"

    def __str__(self) -> str:
        if not self.happened:
            return "never drawn"
        return f"{self._share():.2f} of {self.probability:.2f}"

    def _share(self) -> float:
        return sum(self.happened) / len(self.happened)


Statistics = dict[str, Drawn | Share]
"""By the parameter's name."""


def parameters(config: RealESRGANOptions, draws: Sequence[Draws]) -> Statistics:
    """Compare everything that chance decided with what is published, by name."""
    first_rounds = [d.first for d in draws]
    second_rounds = [d.second for d in draws if d.second]
    return (
        _number(_round_parameters(config.first, first_rounds), "1")
        | _number(_round_parameters(config.second, second_rounds), "2")
        | _second_round_parameter(config, draws)
        | _jpeg_parameters(config, draws)
        | _final_sinc_parameters(config, [d.final_sinc for d in draws])
    )


def _number(statistics: Statistics, number: str) -> Statistics:
    """Put the number of a round behind each name."""
    return {f"{name} {number}": value for name, value in statistics.items()}


def _second_round_parameter(config: RealESRGANOptions, draws: Sequence[Draws]) -> Statistics:
    happened = [d.second is not None for d in draws]
    return {"second round happens": Share(happened, config.second_prob)}


def _jpeg_parameters(config: RealESRGANOptions, draws: Sequence[Draws]) -> Statistics:
    return {
        "JPEG quality 1": Drawn([d.first_quality for d in draws], [config.first.jpeg_quality]),
        "JPEG quality 2": Drawn([d.second_quality for d in draws], [config.second.jpeg_quality]),
        "JPEG comes last": Share([d.jpeg_last for d in draws], 0.5),
    }


def _final_sinc_parameters(
    config: RealESRGANOptions, drawn: Sequence[SincBlur | None]
) -> Statistics:
    sincs = [sinc for sinc in drawn if sinc is not None]
    return {
        "final sinc happens": Share([s is not None for s in drawn], config.final_sinc_prob),
        "final sinc, size": Drawn([s.size for s in sincs], _odd(config.final_sinc_sizes)),
        "final sinc, cutoff": Drawn([s.cutoff for s in sincs], [(math.pi / 3, math.pi)]),
    }


def _round_parameters(stage: RoundOptions, rounds: Sequence[Round]) -> Statistics:
    return (
        _blur_parameters(stage, [r.blur for r in rounds])
        | _resize_parameters(stage, [r.factor for r in rounds])
        | _noise_parameters(stage, [r.noise for r in rounds])
    )


def _blur_parameters(stage: RoundOptions, drawn: Sequence[Blur | None]) -> Statistics:
    blurs = [b for b in drawn if b is not None]
    kernels: Statistics = {
        "blur happens": Share([b is not None for b in drawn], stage.blur_prob),
        "kernel size": Drawn([b.size for b in blurs], _odd(stage.kernel_sizes)),
        "kernel is a sinc": Share([isinstance(b, SincBlur) for b in blurs], stage.sinc_prob),
    }
    sincs = [b for b in blurs if isinstance(b, SincBlur)]
    gaussians = [b for b in blurs if isinstance(b, GaussianBlur)]
    return kernels | _sinc_parameters(stage, sincs) | _gaussian_parameters(stage, gaussians)


def _sinc_parameters(stage: RoundOptions, sincs: Sequence[SincBlur]) -> Statistics:
    cutoffs = []
    for size, _ in _odd(stage.kernel_sizes):
        # A kernel of less than 13 pixels has a higher lowest cutoff.
        lowest = math.pi / 3 if size < 13 else math.pi / 5
        cutoffs.append((lowest, math.pi))
    return {"sinc cutoff": Drawn([s.cutoff for s in sincs], cutoffs)}


def _gaussian_parameters(stage: RoundOptions, gaussians: Sequence[GaussianBlur]) -> Statistics:
    shapes = [g.shape for g in gaussians]
    isotropic = [not shape.endswith("aniso") for shape in shapes]
    # The mix lists an isotropic and an anisotropic kernel of each shape in turn.
    isotropic_prob = sum(stage.kernel_mix[0::2])
    sigmas = [g.sigma_x for g in gaussians] + [g.sigma_y for g in gaussians]
    return {
        "kernel is isotropic": Share(isotropic, isotropic_prob),
        "sigma": Drawn(sigmas, [stage.sigma]),
        "generalized beta": Drawn(
            _betas(gaussians, "generalized"), _around_one(stage.beta_generalized)
        ),
        "plateau beta": Drawn(_betas(gaussians, "plateau"), _around_one(stage.beta_plateau)),
    }


def _betas(gaussians: Sequence[GaussianBlur], shape: str) -> list[float]:
    """List the betas of the kernels of a shape, isotropic or not."""
    return [g.beta for g in gaussians if g.shape.startswith(shape)]


def _resize_parameters(stage: RoundOptions, factors: Sequence[float]) -> Statistics:
    smallest, largest = stage.resize_range
    return {
        "resize up": Share([f > 1 for f in factors], stage.resize_prob[0]),
        "resize down": Share([f < 1 for f in factors], stage.resize_prob[1]),
        "factor up": Drawn([f for f in factors if f > 1], [(1, largest)]),
        "factor down": Drawn([f for f in factors if f < 1], [(smallest, 1)]),
    }


def _noise_parameters(stage: RoundOptions, noises: Sequence[Noise]) -> Statistics:
    gaussian = [n.strength for n in noises if n.kind == "gaussian"]
    poisson = [n.strength for n in noises if n.kind == "poisson"]
    return {
        "noise is Gaussian": Share([n.kind == "gaussian" for n in noises], stage.gaussian_prob),
        "noise is gray": Share([n.gray for n in noises], stage.gray_prob),
        "Gaussian sigma x 255": Drawn(gaussian, [stage.gaussian_sigma]),
        "Poisson scale": Drawn(poisson, [stage.poisson_scale]),
    }


def _odd(sizes: tuple[int, int]) -> list[tuple[float, float]]:
    """List the odd sizes from one to another, each as a range of one point."""
    return [(k, k) for k in range(sizes[0], sizes[1] + 1, 2)]


def _around_one(ends: tuple[float, float]) -> list[tuple[float, float]]:
    """Split a range at 1: values below and above it are equally likely."""
    return [(ends[0], 1), (1, ends[1])]


def photographs(folder: Path, count: int, crop: int) -> list[Tensor]:
    """Cut the middle of up to ``count`` photographs, in an order that is always the same."""
    files = sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")
    )
    random.Random(0).shuffle(files)
    crops: list[Tensor] = []
    for file in files:
        image = read_image(file)
        height, width = image.shape[1:]
        top = (height - crop) // 2
        left = (width - crop) // 2
        if min(top, left) >= 0:
            crops.append(image[None, :, top : top + crop, left : left + crop])
        if len(crops) == count:
            break
    if not crops:
        raise DataError(f"{folder} - no photographs of at least {crop} x {crop} pixels")
    return crops


def degrade_all(
    config: RealESRGANOptions, photos: Iterable[Tensor]
) -> tuple[list[Tensor], list[Draws]]:
    """Degrade each photograph, and return its draws: photograph k has seed k."""
    degradation = RealESRGAN(config)
    images = []
    draws = []
    for k, photo in enumerate(photos):
        images.append(degradation(photo, Generator().manual_seed(k)))
        # As the degradation does, which has two seeds for each image.
        seeds = torch.randint(2**62, (1, 2), generator=Generator().manual_seed(k))
        seed = int(seeds[0, 0])
        draws.append(draw(config, Generator().manual_seed(seed)))
    return images, draws


def psnr(a: Tensor, b: Tensor) -> float:
    """Measure images in [-1, 1] that are not rounded to 8 bits."""
    return float(psnr_from_mse((a - b).square().mean(), peak=2))


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    tensor = torch.tensor(values, dtype=torch.float64)
    return tensor.mean().item(), tensor.std(unbiased=False).item()


def sheet(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Put rows of images above each other, (3, H, W), each pixel a square of :data:`CELL`."""
    joined = [torch.cat([image[0] for image in row], dim=2) for row in rows]
    grid = torch.cat(joined, dim=1)
    return grid.repeat_interleave(CELL, 1).repeat_interleave(CELL, 2)


def main() -> None:
    options = parse_options()
    photos = photographs(options.folder, options.images, options.crop)
    bicubic = [Bicubic(BicubicOptions())(photo, Generator()) for photo in photos]
    columns: dict[str, dict[str, str]] = {}
    rows = [bicubic[:SHEET_COLUMNS]]
    problems = []
    for preset in PRESETS:
        config = RealESRGANOptions.model_validate({"preset": preset})
        images, draws = degrade_all(config, photos)
        columns[preset] = {"PSNR against bicubic, dB": describe_distances(images, bicubic)}
        for name, value in parameters(config, draws).items():
            columns[preset][name] = str(value)
            problem = value.problem()
            if problem is not None:
                problems.append(f"{preset}, {name}: {problem}")
        rows.append(images[:SHEET_COLUMNS])
    print(f"{len(photos)} photographs, {options.crop} x {options.crop}\n")
    for line in format_table(columns):
        print(line)
    if options.sheet:
        write_image(sheet(rows), options.sheet)
    if problems:
        raise SystemExit("not as published:\n  " + "\n  ".join(problems))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--crop", type=int, default=256, help="side of the clean crop, pixels")
    parser.add_argument(
        "--sheet",
        type=Path,
        help="write 36 results here: 12 photographs, bicubic above the presets",
    )
    return parser.parse_args()


def describe_distances(images: Sequence[Tensor], references: Sequence[Tensor]) -> str:
    """Describe the PSNR of images against others: mean, spread and range."""
    distances = [psnr(image, other) for image, other in zip(images, references, strict=True)]
    mean, spread = _mean_and_spread(distances)
    return f"{mean:.1f} ± {spread:.1f}, {min(distances):.1f}..{max(distances):.1f}"


def format_table(columns: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Format a table in Markdown with a column for each preset; all have the same rows."""
    yield f"| parameter | {' | '.join(columns)} |"
    yield "| --- " * (1 + len(columns)) + "|"
    for name in next(iter(columns.values())):
        cells = [column[name] for column in columns.values()]
        yield f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
