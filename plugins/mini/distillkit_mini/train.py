"""The program that trained the shipped weights: ``python -m distillkit_mini.train --photos DIR [DIR ...] [--task lle]``.

Two networks for each task are trained on one CPU core, the same way for the same seed, photographs and versions:

faithful
    ``|clean(z_t, t) - z_0|^2`` from scratch. At first every sample is at the top time, where the network is a plain restorer; then
    half of each batch is at times drawn uniformly. For low light it gets ``y`` in place of ``z_t`` at the top time: what little of
    the clean image is in ``z_t`` tells its brightness, which is what there is to learn; and ``10 |error - its mean over a crop|^2``
    is added, which moves no optimum: that mean is mostly brightness that nobody can know, and drowns what can be learnt.
realistic
    from the faithful weights, ``|S(y) - z_0|^2 + 30 |cells|^2 + 2 ST-LPIPS + 0.4 adversarial + 0.5 denoising``. S is one step;
    *cells* is the error averaged over 4 x 4 latent pixels, what a pattern that repeats with the latent's grid leaves; the patch
    discriminator has the hinge loss. Perceptual distance and discriminator see randomly shifted crops, so that such a pattern
    does not pay off. For low light the weights are 3 (errors of brightness are in *cells* too), 8 and 0.2.

The weights kept are moving averages, stored in half precision.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from distillkit import Condition, Degradation, DistillkitError, PerceptualDistance, load_plugins
from distillkit_mini.crops import Crops, find_photos
from distillkit_mini.degradation import Camera
from distillkit_mini.models import (
    LOW_LIGHT,
    SUPER_RESOLUTION,
    Faithful,
    MiniModel,
    Realistic,
    Task,
    load_network,
)

BATCH = 8
FEWER = 4
"""Crops of a batch that are denoised, and that the perceptual distance sees."""
CELLS = 4
WEIGHTS = {"l2": 1.0, "cells": 30.0, "perceptual": 2.0, "adversarial": 0.4, "denoising": 0.5}
REPORT_EVERY = 250

M = TypeVar("M", bound=MiniModel)


@dataclass(frozen=True)
class Course:
    """How the two models of a task are trained."""

    task: Task
    names: tuple[str, str]
    """Of the weight files: faithful, realistic."""
    degradation: Callable[[], Degradation]
    crop: int
    """Side of the training crops, pixels."""
    large: int
    """Photographs of at least this shorter side, in pixels, are also used at half their size."""
    faithful_steps: tuple[int, int]
    """Steps at the top time only, and at all times."""
    realistic_steps: int
    top_is_guess: bool
    """At the top time the faithful network gets ``y`` in place of ``z_t``."""
    faithful_rate: float
    """Learning rate."""
    detail: float
    """Weight, in the faithful model's loss, of the error beside its mean over a crop."""
    weights: dict[str, float]
    """Of the terms of the realistic model's loss."""


def plugin_thing(kind: Literal["degradations", "metrics"], use: str, **options: Any) -> Any:
    """Something of an installed plugin with the options given, as a recipe would name it.

    Raises:
        PluginError: no installed plugin offers it.
    """
    spec = load_plugins().find(kind, use)[1]
    return spec.create(spec.config(**options))


DARK: dict[str, tuple[float, float]] = {
    "gamma": (2.0, 2.3),
    "exposure": (0.25, 0.32),
    "cast": (0.9, 1.1),
    "shot": (0.001, 0.004),
    "read": (0.003, 0.01),
    "jpeg": (90, 98),
}
"""Options of ``lowlight/dark``: the exposure is nearly known, as a camera knows it, and there is much noise. Its defaults leave
more of the brightness to guess than such small models can, and less noise, which is where faithful and realistic part."""

COURSES = {
    "sr4x": Course(
        task=SUPER_RESOLUTION,
        names=("faithful", "realistic"),
        degradation=Camera,
        crop=64,
        large=480,
        faithful_steps=(3_600, 5_400),
        realistic_steps=2_400,
        top_is_guess=False,
        faithful_rate=1e-3,
        detail=0.0,
        weights=WEIGHTS,
    ),
    "lle": Course(
        task=LOW_LIGHT,
        names=("faithful-lle", "realistic-lle"),
        degradation=partial(plugin_thing, "degradations", "lowlight/dark", **DARK),
        crop=64,
        large=192,
        faithful_steps=(4_000, 6_000),
        realistic_steps=2_400,
        top_is_guess=True,
        faithful_rate=5e-4,  # twice as much and the network dies: brightness that nobody can know makes the gradient noisy
        detail=10.0,
        weights=WEIGHTS | {"cells": 3.0, "perceptual": 8.0, "adversarial": 0.2},
    ),
}


class Pairs:
    """Batches (lq, gt), in [-1, 1], from one generator that also serves the noise and the times."""

    def __init__(self, crops: Crops, degradation: Degradation, seed: int) -> None:
        self._crops, self._degradation = crops, degradation
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self) -> tuple[Tensor, Tensor]:
        gt = self._crops.draw(BATCH, self.generator)
        return self._degradation(gt, self.generator), gt


def train_faithful(pairs: Pairs, course: Course, share: float = 1.0) -> Faithful:
    """The faithful model after ``share`` of its full schedule."""
    model = Faithful(task=course.task)
    early, late = (round(share * steps) for steps in course.faithful_steps)

    def loss(step: int) -> dict[str, Tensor]:
        lq, gt = pairs.draw()
        z_0, condition = model.codec.encode(gt), model.condition(lq)
        assert condition.y is not None
        t = model.process.sample_timesteps(BATCH, pairs.generator)
        top = BATCH if step < early else BATCH // 2
        t[:top] = model.process.t_max
        noise = torch.randn(z_0.shape, generator=pairs.generator)
        z_t = model.process.add_noise(z_0, noise, t, condition.y)
        if course.top_is_guess:
            z_t = torch.cat([condition.y[:top], z_t[top:]])
        error = model(z_t, t, condition) - z_0
        terms = {"clean": error.square().mean()}
        if course.detail:
            terms["detail"] = (
                course.detail * (error - error.mean((2, 3), keepdim=True)).square().mean()
            )
        return terms

    return _train(course.names[0], model, loss, early + late, course.faithful_rate, decay=0.999)


def train_realistic(
    pairs: Pairs, course: Course, *, faithful: Path, share: float = 1.0
) -> Realistic:
    """The realistic model after ``share`` of its full schedule, from the weights in the file ``faithful``."""
    model = Realistic(course.task)
    load_network(model.network, faithful)
    distance, judge = PerceptualDistance("alex"), Discriminator()
    judge_optimizer = torch.optim.AdamW(judge.parameters(), lr=4e-4, betas=(0.5, 0.9))

    def loss(step: int) -> dict[str, Tensor]:
        attempt = restore_and_denoise(model, pairs)
        fake, real = _shifted(model.codec.decode(attempt.restored), attempt.gt, pairs.generator)
        judged = judge(torch.cat([fake.detach(), real]))
        judge_loss = F.relu(1 + judged[:BATCH]).mean() + F.relu(1 - judged[BATCH:]).mean()
        judge_optimizer.zero_grad()
        judge_loss.backward()
        judge_optimizer.step()
        judge.requires_grad_(False)
        adversarial = -judge(fake).mean()
        judge.requires_grad_(True)
        terms = {
            "l2": F.mse_loss(attempt.restored, attempt.z_0),
            "cells": F.mse_loss(
                F.avg_pool2d(attempt.restored, CELLS), F.avg_pool2d(attempt.z_0, CELLS)
            ),
            "perceptual": distance(fake[:FEWER], real[:FEWER]).mean(),
            "adversarial": adversarial,
            "denoising": attempt.denoising,
        }
        return {name: course.weights[name] * term for name, term in terms.items()}

    return _train(
        course.names[1],
        model,
        loss,
        round(share * course.realistic_steps),
        learning_rate=4e-4,
        decay=0.998,
    )


class Attempt(NamedTuple):
    """One batch through the realistic model."""

    restored: Tensor
    """One-step latents, (B, 48, h, w)."""
    z_0: Tensor
    gt: Tensor
    denoising: Tensor
    """``min(signal / noise, 1)^2 |clean(z_t, t) - z_0|^2`` on a part of the batch."""


def restore_and_denoise(model: Realistic, pairs: Pairs) -> Attempt:
    """Restore a batch and denoise a part of it, in one pass of the network."""
    lq, gt = pairs.draw()
    z_0, condition = model.codec.encode(gt), model.condition(lq)
    few, t = z_0[:FEWER], model.process.sample_timesteps(FEWER, pairs.generator)
    noise = torch.randn(few.shape, generator=pairs.generator)
    assert condition.y is not None
    y = condition.y
    z_in = torch.cat([model.process.add_noise(few, noise, t), y])
    times = torch.cat([t, torch.full((len(y),), model.start)])
    clean = model(z_in, times, Condition(y=torch.cat([y[:FEWER], y])))
    weight = model.process.coefficients(t).ratio.clamp(max=1)
    return Attempt(clean[FEWER:], z_0, gt, (weight * (clean[:FEWER] - few)).square().mean())


class Discriminator(nn.Module):
    """Judges overlapping patches of 14 px: images (B, 3, H, W) -> (B, 1, about H/4, about W/4), positive for real ones."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.spectral_norm
        self.layers = nn.Sequential(
            nn.Conv2d(3, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(width, 2 * width, 3, 1, 1)),
            nn.LeakyReLU(0.2),
            norm(nn.Conv2d(2 * width, 2 * width, 4, 2, 1)),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 1, 3, 1, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


def _shifted(
    a: Tensor, b: Tensor, generator: torch.Generator, less: int = 12
) -> tuple[Tensor, Tensor]:
    """The same randomly placed square of two batches of images, ``less`` pixels smaller than they are."""
    top, left = torch.randint(less + 1, (2,), generator=generator).tolist()
    window = a.shape[-1] - less
    place = (..., slice(top, top + window), slice(left, left + window))
    return a[place], b[place]


def _train(
    name: str,
    model: M,
    loss: Callable[[int], dict[str, Tensor]],
    steps: int,
    learning_rate: float,
    decay: float,
) -> M:
    """``steps`` steps of AdamW with a warm-up and a cosine; the model ends with the moving average of its weights."""
    optimizer = torch.optim.AdamW(model.network.parameters(), lr=learning_rate, weight_decay=0.01)
    warm = min(100, steps)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=warm)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps - warm, 1))
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [warm])
    average = copy.deepcopy(model.network)
    started, seen = time.monotonic(), dict[str, float]()
    for step in range(steps):
        terms = loss(step)
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        nn.utils.clip_grad_norm_(model.network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        weight = max(1 - decay, 1 / (step + 1))
        with torch.no_grad():
            for slow, fast in zip(average.parameters(), model.network.parameters(), strict=True):
                slow.lerp_(fast, weight)
        seen = {k: seen.get(k, 0.0) + float(v.detach()) for k, v in terms.items()}
        if (step + 1) % REPORT_EVERY == 0:
            shown = " ".join(f"{k} {v / REPORT_EVERY:.5f}" for k, v in seen.items())
            print(
                f"{name} {step + 1}/{steps} {shown} ({time.monotonic() - started:.0f} s)",
                flush=True,
            )
            seen = {}
    model.network.load_state_dict(average.state_dict())
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m distillkit_mini.train",
        description="Train the mini teachers on one CPU core.",
    )
    parser.add_argument(
        "--photos", type=Path, nargs="+", required=True, help="photographs, or folders of them"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("mini-weights"),
        help="folder for the weights and the card (default: %(default)s)",
    )
    parser.add_argument(
        "--task",
        choices=sorted(COURSES),
        default="sr4x",
        help="what the models undo (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--share", type=float, default=1.0, help="share of the full schedule, for a trial run"
    )
    parser.add_argument("--only", choices=["faithful", "realistic"], help="train one of the two")
    args = parser.parse_args()
    try:
        run(args.photos, args.out, args.seed, args.share, args.only, COURSES[args.task])
    except DistillkitError as e:
        parser.exit(2, f"{e}\n")


def run(
    photos: list[Path],
    out: Path,
    seed: int,
    share: float = 1.0,
    only: str | None = None,
    course: Course = COURSES["sr4x"],
) -> None:
    """Train, and write ``NAME.safetensors`` and ``NAME.json`` (how it was made) for each model of the course into ``out``."""
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    crops, degradation = (
        Crops(find_photos(photos), course.crop, large=course.large),
        course.degradation(),
    )
    faithful, realistic = (out / f"{name}.safetensors" for name in course.names)
    programs: dict[str, tuple[Path, Callable[..., MiniModel]]] = {
        "faithful": (faithful, train_faithful),
        "realistic": (realistic, partial(train_realistic, faithful=faithful)),
    }
    for role, (path, train) in programs.items():
        if only not in (None, role):
            continue
        torch.manual_seed(seed)
        started = time.monotonic()
        model = train(Pairs(crops, degradation, seed), course, share=share)
        save_file({k: v.half() for k, v in model.network.state_dict().items()}, path)
        made: dict[str, object] = {
            "seed": seed,
            "share": share,
            "photographs": len(crops),
            "seconds": round(time.monotonic() - started),
        }
        made |= {
            "torch": str(torch.__version__),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        path.with_suffix(".json").write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main()
