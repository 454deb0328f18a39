"""Facts about this machine: package versions, the processor, memory."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    "distillkit",
    "torch",
    "torchvision",
    "diffusers",
    "peft",
    "accelerate",
    "datasets",
    "transformers",
    "numpy",
    "pillow",
)


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Installed versions by package; ``"absent"`` for one that is not installed."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "absent"
    return found


def peak_memory() -> int:
    """The most memory this process has held so far, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def cpu_name() -> str:
    """The processor's name, as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor(),
    )
