"""What restoring costs: parameters, and the name of the device that its time is measured on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from distillkit.environment import cpu_name


def parameters(model: Any) -> int | None:
    """Parameters of a model, its codec's included, each counted once; None of something that is no module and does not say."""
    parts = [part for part in (model, getattr(model, "codec", None)) if isinstance(part, nn.Module)]
    if not parts:
        return None
    return sum(p.numel() for p in {id(p): p for part in parts for p in part.parameters()}.values())


def trained_parameters(student: Path) -> int:
    """Numbers that both stages trained, as stored in a student's folder."""
    total = 0
    for path in student.glob("stage*.safetensors"):
        with safe_open(path, framework="pt") as file:
            total += sum(torch.Size(file.get_slice(key).get_shape()).numel() for key in file.keys())  # noqa: SIM118
    return total


def device_name(device: torch.device | str) -> str:
    """The device as a person knows it, with the threads of a CPU."""
    device = torch.device(device)
    if device.type == "cuda":
        return f"{device}: {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    return f"{device}: {cpu_name()}, {threads} thread{'' if threads == 1 else 's'}"
