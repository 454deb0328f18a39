"""Interpolate the weights of two checkpoints of one network: a baseline that needs no training.

``python benchmarks/mix.py A B ALPHA FILE`` writes ``(1 - ALPHA) A + ALPHA B``, all three of them
.safetensors.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from safetensors.torch import load_file, save_file

from distillkit.errors import WeightsError


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("a", type=Path, metavar="A")
    parser.add_argument("b", type=Path, metavar="B")
    parser.add_argument("alpha", type=float, metavar="ALPHA")
    parser.add_argument("file", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    a, b = load_file(arguments.a), load_file(arguments.b)
    if shapes(a) != shapes(b):
        raise WeightsError(f"{arguments.a} and {arguments.b} are not of one network")
    mixed = {name: tensor.lerp(b[name], arguments.alpha) for name, tensor in a.items()}
    save_file(mixed, arguments.file)


def shapes(tensors: dict) -> dict:
    return {name: tensor.shape for name, tensor in tensors.items()}


if __name__ == "__main__":
    main()
