"""Run an ncnn network on images: ``python -m distillkit.export.ncnn_process NETWORK IMAGES``.

A process of its own, because ncnn ends the process that runs a graph which does not fit together,
and writes its reasons to the standard error of that process.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

INPUT = "data"
OUTPUT = "output"
"""Names of the network's ends. Hosts of ncnn networks look for these."""
RESTORED = "restored.safetensors"
"""What this process writes beside the images."""


def run(network: Path, images: Path) -> None:
    """Restore images in float32 on the CPU.

    Args:
        network: The path of both files without their suffixes, ``.param`` and ``.bin``.
        images: A file of safetensors, float32 (3, h, w) in [0, 1]. ``restored.safetensors``
            appears beside it, with tensors of the same names.
    """
    net = _load(network)
    restored = {name: _restore(net, image) for name, image in load_file(images).items()}
    save_file(restored, images.with_name(RESTORED))


def _load(network: Path) -> Any:
    import ncnn

    net = ncnn.Net()
    net.opt.use_vulkan_compute = False
    # What is compared is the file, not the precision of this machine's fastest arithmetic.
    net.opt.use_fp16_packed = False
    net.opt.use_fp16_storage = False
    net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    failed = net.load_param(f"{network}.param") or net.load_model(f"{network}.bin")
    if failed:
        raise SystemExit(1)
    return net


def _restore(net: Any, image: np.ndarray) -> np.ndarray:
    import ncnn

    extractor = net.create_extractor()
    failed = extractor.input(INPUT, ncnn.Mat(image).clone())
    if failed:
        raise SystemExit(f"it has no input {INPUT}")
    failed, restored = extractor.extract(OUTPUT)
    if failed or restored.empty():
        raise SystemExit(f"it gives no image, code {failed}")
    # Copied, because the network frees its memory.
    return np.array(restored)


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]))
