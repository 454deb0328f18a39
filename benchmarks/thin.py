"""Count students that are slices of OSEDiff at their true size, without weights or computation.

    python benchmarks/thin.py [--side 512]

The networks are on torch's meta device, where an image has a shape and no values. Each row is a
student of ``superres/osediff`` by its options. Prints parameters of the UNet, of the decoder and of
all that restores (both encoders' tensors included: the input's and the ground truth's), GiB of them
in float32, and multiplications and additions (10^12) of restoring one image: UNet, decoder, all.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from distillkit import ModelInput
from distillkit_bench.train import make_flop_counter
from distillkit_superres.osediff.architecture import make_unet, make_vae
from distillkit_superres.osediff.build import make_thin
from distillkit_superres.osediff.model import OSEDiff, PosteriorMean
from distillkit_superres.osediff.options import OSEDiffStudentOptions
from distillkit_superres.osediff.sizes import FULL
from distillkit_superres.osediff.text import FixedPrompt

META = torch.device("meta")
ROWS: list[dict[str, Any]] = [
    {},
    {"width": 0.8},
    {"width": 0.6},
    {"width": 0.4},
    {"layers_per_block": 1},
    {"decoder_width": 0.5},
    {"width": 0.8, "decoder_width": 0.5},
    {"width": 0.6, "decoder_width": 0.5},
    {"width": 0.6, "layers_per_block": 1, "decoder_width": 0.5},
    {"width": 0.4, "layers_per_block": 1, "decoder_width": 0.25},
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=512, help="of the restored image, pixels")
    side = parser.parse_args().side
    print(f"{'million parameters':>30}{'':>8}{f'TFLOP at {side} px':>24}")
    heads = ("UNet", "decoder", "all", "GiB", "UNet", "decoder", "all")
    print("".join(f"{head:>10}" for head in heads))
    for row in ROWS:
        student = make_student(OSEDiffStudentOptions(**row))
        parts = (student.network, student.decoder, student)
        parameters = "".join(f"{count_parameters(part) / 1e6:>10.1f}" for part in parts)
        gib = 4 * count_parameters(student) / 2**30
        flops = "".join(f"{part / 1e12:>10.3f}" for part in count_flops(student, side))
        name = ", ".join(f"{key} = {value}" for key, value in row.items())
        print(f"{parameters}{gib:>10.2f}{flops}  {name or 'OSEDiff'}", flush=True)


def make_student(options: OSEDiffStudentOptions) -> OSEDiff:
    with META:
        unet = make_unet(FULL.unet)
        vae = make_vae(FULL.vae)
        encoder = PosteriorMean(make_vae(FULL.vae))
        prompt = FixedPrompt(torch.empty(1, 77, 1024))
    student = OSEDiff(unet, vae, encoder, prompt)
    make_thin(student, options)
    return student.eval().requires_grad_(False)


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@torch.no_grad()
def count_flops(student: OSEDiff, side: int) -> tuple[int, int, int]:
    """Count the UNet, the decoder and all of restoring one image."""
    lq = torch.empty(1, 3, side // student.scale, side // student.scale, device=META)
    condition = student.condition(ModelInput(lq))
    condition.extra["latent"]()  # encoded once, when first asked for
    latent = torch.empty(1, 4, side // 8, side // 8, device=META)

    def count(compute: Callable[[], object]) -> int:
        with make_flop_counter() as counter:
            compute()
        return counter.get_total_flops()

    return (
        count(lambda: student.generate(condition)),
        count(lambda: student.decode(latent, condition)),
        count(lambda: student.restore(ModelInput(lq))),
    )


if __name__ == "__main__":
    main()
