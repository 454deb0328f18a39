"""The program that trained the shipped weights.

``python -m distillkit_mini.train --photos DIR [DIR ...] [--task lle]`` trains two networks for a
task on one CPU core, the same way for the same seed, photographs and versions:

faithful
    ``|sample(z_t, t) - z_0|^2`` from scratch. At first every timestep is the top one, where the
    network is a plain restorer; then half of each batch is at timesteps drawn uniformly. For low
    light it gets ``y`` in place of ``z_t`` at the top timestep: what little of the clean image is
    in ``z_t`` tells its brightness, which is what there is to learn. Also for low light,
    ``10 |error - its mean over a crop|^2`` is added, which moves no optimum: that mean is mostly
    unknowable brightness, and drowns what can be learned.
realistic
    From the faithful weights,
    ``|S(y) - z_0|^2 + 30 |cells|^2 + 2 ST-LPIPS + 0.4 adversarial + 0.5 denoising``. S is one step;
    *cells* is the error averaged over 4 x 4 latent pixels, which holds what a pattern that repeats
    with the latent's grid leaves; the patch discriminator has the hinge loss. Perceptual distance
    and discriminator see randomly shifted crops, so that such a pattern does not pay off. For low
    light the weights are 3 (errors of brightness are in *cells*, too), 8 and 0.2.

The weights kept are moving averages, stored in half precision.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from distillkit import Condition, DistillkitError, ModelInput, PerceptualDistance
from distillkit_mini.models import Faithful, MiniModel, Realistic, load_network
from distillkit_mini.pairs import BATCH, TrainingPairs, open_photos
from distillkit_mini.training_setups import TRAINING_SETUPS, TrainingSetup

FEWER = 4
"""Crops of a batch that are denoised, and that the perceptual distance sees."""
CELLS = 4
SHIFT = 12
"""Pixels by which crops are shifted at most before the perceptual losses."""
WARMUP_STEPS = 100
REPORT_EVERY = 250

Terms = dict[str, Tensor]
M = TypeVar("M", bound=MiniModel)


def train_faithful(pairs: TrainingPairs, setup: TrainingSetup, share: float = 1.0) -> Faithful:
    """Train the faithful model.

    Args:
        pairs: Training pairs.
        setup: How it is trained.
        share: Share of the full schedule.
    """
    model = Faithful(task=setup.task)
    early, late = (round(share * steps) for steps in setup.faithful_steps)

    def loss(step: int) -> Terms:
        at_top = BATCH if step < early else BATCH // 2
        return faithful_loss(model, pairs, setup, at_top)

    optimizer = torch.optim.AdamW(
        model.network.parameters(), lr=setup.faithful_learning_rate, weight_decay=0.01
    )
    return _optimize(setup.names[0], model, optimizer, loss, early + late, decay=0.999)


def faithful_loss(
    model: Faithful, pairs: TrainingPairs, setup: TrainingSetup, at_top: int
) -> Terms:
    """Compute the faithful model's loss of a batch, the first ``at_top`` at the top timestep."""
    lq, gt = pairs.draw()
    z_0 = model.codec.encode(gt)
    condition = model.condition(ModelInput(lq))
    assert condition.y is not None
    t = model.process.sample_timesteps(BATCH, pairs.generator)
    t[:at_top] = model.process.t_max
    noise = torch.randn(z_0.shape, generator=pairs.generator)
    z_t = model.process.add_noise(z_0, noise, t, condition.y)
    if setup.top_is_guess:
        z_t = torch.cat([condition.y[:at_top], z_t[at_top:]])
    error = model(z_t, t, condition) - z_0
    terms = {"clean": error.square().mean()}
    if setup.detail:
        detail = error - error.mean((2, 3), keepdim=True)
        terms["detail"] = setup.detail * detail.square().mean()
    return terms


def train_realistic(
    pairs: TrainingPairs, setup: TrainingSetup, faithful: Path, share: float = 1.0
) -> Realistic:
    """Train the realistic model.

    Args:
        pairs: Training pairs.
        setup: How it is trained.
        faithful: The faithful model's weights, from which it starts.
        share: Share of the full schedule.
    """
    model = Realistic(setup.task)
    load_network(model.network, faithful)
    distance = PerceptualDistance("alex")
    discriminator = Discriminator()
    discriminator_optimizer = torch.optim.AdamW(
        discriminator.parameters(), lr=4e-4, betas=(0.5, 0.9)
    )

    def loss(step: int) -> Terms:
        result = restore_and_denoise(model, pairs)
        image = model.codec.decode(result.restored)
        fake, real = _shift(image, result.gt, pairs.generator)
        discriminator_optimizer.zero_grad()
        discriminator.loss(fake.detach(), real).backward()
        discriminator_optimizer.step()
        cells = F.avg_pool2d(result.restored, CELLS)
        true_cells = F.avg_pool2d(result.z_0, CELLS)
        terms = {
            "l2": F.mse_loss(result.restored, result.z_0),
            "cells": F.mse_loss(cells, true_cells),
            "perceptual": distance(fake[:FEWER], real[:FEWER]).mean(),
            "adversarial": discriminator.adversarial_loss(fake),
            "denoising": result.denoising,
        }
        return {name: setup.weights[name] * term for name, term in terms.items()}

    steps = round(share * setup.realistic_steps)
    optimizer = torch.optim.AdamW(model.network.parameters(), lr=4e-4, weight_decay=0.01)
    return _optimize(setup.names[1], model, optimizer, loss, steps, decay=0.998)


class RealisticBatch(NamedTuple):
    """One batch through the realistic model."""

    restored: Tensor
    """One-step latents, (B, 48, h, w)."""
    z_0: Tensor
    gt: Tensor
    denoising: Tensor
    """``min(signal / noise, 1)^2 |sample(z_t, t) - z_0|^2`` on some of the batch."""


def restore_and_denoise(model: Realistic, pairs: TrainingPairs) -> RealisticBatch:
    """Restore a batch and denoise some of it, in one pass of the network."""
    lq, gt = pairs.draw()
    z_0 = model.codec.encode(gt)
    y = model.condition(ModelInput(lq)).y
    assert y is not None
    few = z_0[:FEWER]
    t = model.process.sample_timesteps(FEWER, pairs.generator)
    noise = torch.randn(few.shape, generator=pairs.generator)
    noised = model.process.add_noise(few, noise, t)
    start = torch.full((len(y),), model.start)
    clean = model(
        torch.cat([noised, y]),
        torch.cat([t, start]),
        Condition(y=torch.cat([y[:FEWER], y])),
    )
    denoised, restored = clean[:FEWER], clean[FEWER:]
    weight = model.process.coefficients(t).ratio.clamp(max=1)
    denoising = (weight * (denoised - few)).square().mean()
    return RealisticBatch(restored, z_0, gt, denoising)


class Discriminator(nn.Module):
    """Judges overlapping patches of 14 px, with the hinge loss.

    Images (B, 3, H, W) -> (B, 1, about H / 4, about W / 4), positive for real ones.
    """

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

    def loss(self, fake: Tensor, real: Tensor) -> Tensor:
        """Compute its own loss."""
        judged = self(torch.cat([fake, real]))
        judged_fake, judged_real = judged.split([len(fake), len(real)])
        return F.relu(1 + judged_fake).mean() + F.relu(1 - judged_real).mean()

    def adversarial_loss(self, fake: Tensor) -> Tensor:
        """Compute the loss of what it judges, without gradient for itself."""
        self.requires_grad_(False)
        loss = -self(fake).mean()
        self.requires_grad_(True)
        return loss


def _shift(a: Tensor, b: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Cut the same randomly placed square, ``SHIFT`` pixels smaller, from two batches of images."""
    top, left = torch.randint(SHIFT + 1, (2,), generator=generator).tolist()
    side = a.shape[-1] - SHIFT
    place = (..., slice(top, top + side), slice(left, left + side))
    return a[place], b[place]


def _optimize(
    name: str,
    model: M,
    optimizer: torch.optim.Optimizer,
    loss: Callable[[int], Terms],
    steps: int,
    decay: float,
) -> M:
    """Train a model with a linear warm-up and a cosine decay of the learning rate.

    Args:
        name: The model's name in reports.
        model: The model; it ends with the moving average of its weights.
        optimizer: The optimizer of its network.
        loss: Computes the terms of a step.
        steps: Number of steps.
        decay: Decay of the moving average.
    """
    warmup_steps = min(WARMUP_STEPS, steps)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=warmup_steps)
    cosine_steps = max(steps - warmup_steps, 1)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, cosine_steps)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, cosine], [warmup_steps])
    average = copy.deepcopy(model.network)
    reporter = _Reporter(name, steps)
    for step in range(steps):
        terms = loss(step)
        optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        nn.utils.clip_grad_norm_(model.network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        # At first the average is the plain mean of all steps.
        _update(average, model.network, max(1 - decay, 1 / (step + 1)))
        reporter.add(step, terms)
    model.network.load_state_dict(average.state_dict())
    return model


@torch.no_grad()
def _update(average: nn.Module, network: nn.Module, weight: float) -> None:
    for slow, fast in zip(average.parameters(), network.parameters(), strict=True):
        slow.lerp_(fast, weight)


class _Reporter:
    """Prints mean terms every so many steps."""

    def __init__(self, name: str, steps: int) -> None:
        self._name = name
        self._steps = steps
        self._started = time.monotonic()
        self._sums: dict[str, float] = {}

    def add(self, step: int, terms: Terms) -> None:
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value.detach())
        if (step + 1) % REPORT_EVERY:
            return
        means = [f"{name} {total / REPORT_EVERY:.5f}" for name, total in self._sums.items()]
        seconds = time.monotonic() - self._started
        progress = f"{self._name} {step + 1}/{self._steps}"
        print(f"{progress} {' '.join(means)} ({seconds:.0f} s)", flush=True)
        self._sums = {}


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(
        prog="python -m distillkit_mini.train",
        description="Train the mini teachers on one CPU core.",
    )
    parser.add_argument(
        "--photos",
        type=Path,
        nargs="+",
        required=True,
        help="folders of photographs",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("mini-weights"),
        help="folder for the weights and their cards (default: %(default)s)",
    )
    parser.add_argument(
        "--task",
        choices=sorted(TRAINING_SETUPS),
        default="sr4x",
        help="what the models undo (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--share",
        type=float,
        default=1.0,
        help="share of the full schedule, for a trial run",
    )
    parser.add_argument(
        "--only",
        choices=["faithful", "realistic"],
        help="train one of the two",
    )
    args = parser.parse_args()
    try:
        setup = TRAINING_SETUPS[args.task]
        run(args.photos, args.out, args.seed, setup, args.share, args.only)
    except DistillkitError as e:
        parser.exit(2, f"{e}\n")


def run(
    folders: Sequence[Path],
    out: Path,
    seed: int,
    setup: TrainingSetup,
    share: float = 1.0,
    only: str | None = None,
) -> None:
    """Train the models of a setup, and write each one's weights and card.

    Args:
        folders: Folders of photographs.
        out: Folder for ``NAME.safetensors`` and ``NAME.json``, which says how they were made.
        seed: Seed of all draws.
        setup: The setup.
        share: Share of the full schedule.
        only: ``"faithful"``, or ``"realistic"`` if ``out`` has the faithful weights already;
            default: both.

    Raises:
        DistillkitError: A folder has no photographs, or none is as large as a crop.
    """
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    batches = open_photos(folders, setup, seed)
    degradation = setup.degradation()
    faithful, realistic = (out / f"{name}.safetensors" for name in setup.names)
    if only != "realistic":
        started = time.monotonic()
        torch.manual_seed(seed)
        pairs = TrainingPairs(batches, degradation, seed)
        save_weights(train_faithful(pairs, setup, share), faithful)
        write_card(faithful, started, seed, share, photographs=len(batches.sources[0]))
    if only != "faithful":
        started = time.monotonic()
        torch.manual_seed(seed)
        pairs = TrainingPairs(batches, degradation, seed)
        save_weights(train_realistic(pairs, setup, faithful, share), realistic)
        write_card(realistic, started, seed, share, photographs=len(batches.sources[0]))


def save_weights(model: MiniModel, path: Path) -> None:
    """Save a model's network in half precision."""
    weights = {name: value.half() for name, value in model.network.state_dict().items()}
    save_file(weights, path)


def write_card(path: Path, started: float, seed: int, share: float, photographs: int) -> None:
    """Write beside a weight file how it was made."""
    card = {
        "seed": seed,
        "share": share,
        "photographs": photographs,
        "seconds": round(time.monotonic() - started),
        "torch": str(torch.__version__),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")


if __name__ == "__main__":
    main()
