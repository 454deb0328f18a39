"""Costs of restoring: parameters, and the name of the device that times are measured on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from distillkit.environment import cpu_name


def count_parameters(model: Any) -> int | None:
    """Count a model's parameters, its codec's included, each once.

    Returns:
        The number, or None if neither is a module.
    """
    codec = getattr(model, "codec", None)
    modules = [part for part in (model, codec) if isinstance(part, nn.Module)]
    if not modules:
        return None
    # A list of modules names those parameters once that several of them share.
    return sum(parameter.numel() for parameter in nn.ModuleList(modules).parameters())


def count_trained_parameters(student: Path) -> int:
    """Count what both stages trained, from the files in a student's folder."""
    total = 0
    for path in student.glob("stage*.safetensors"):
        with safe_open(path, framework="pt") as file:
            # The file is no mapping: it cannot be iterated itself.
            for key in file.keys():  # noqa: SIM118
                total += math.prod(file.get_slice(key).get_shape())
    return total


def describe_device(device: torch.device | str) -> str:
    """Describe a device for a report: a GPU by its name, a CPU by its name and threads."""
    device = torch.device(device)
    if device.type == "cuda":
        return f"{device}: {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    unit = "thread" if threads == 1 else "threads"
    return f"{device}: {cpu_name()}, {threads} {unit}"
