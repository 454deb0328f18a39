"""Facts about this machine: package versions, the processor, memory."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

try:
    import resource
except ImportError:  # Windows has no such module
    resource = None  # type: ignore[assignment]

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
    """List installed versions by package; ``"absent"`` for one that is not installed."""
    installed = {}
    for package in packages:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = "absent"
    return installed


def unmet_requirements(requirements: Iterable[str]) -> Iterator[str]:
    """List requirements (``"torch>=2.4"``) that this machine does not meet, with what it has.

    Those of extras do not count.
    """
    from packaging.requirements import Requirement

    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = versions([requirement.name])[requirement.name]
        if installed == "absent" or not requirement.specifier.contains(installed, prereleases=True):
            yield (
                f"needs {requirement}, and {requirement.name} is {installed}; "
                f"pip install '{requirement}'"
            )


def peak_memory() -> int | None:
    """Measure the most memory that this process has held so far.

    Returns:
        Bytes; None on Windows, where Python does not say.
    """
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform == "darwin":
        return peak
    return peak * 1024  # elsewhere it counts KiB


def cpu_name() -> str:
    """Find the processor's name, as the system states it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
