"""What a device can do and what a process takes of it: matrix products, copies, peak memory."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from distillkit.environment import cpu_name, peak_memory, versions

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def give_back(device: torch.device) -> None:
    """Return memory that is no longer used, which torch and the C library keep for later."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def restart_peak(device: torch.device) -> None:
    """Let :func:`peak` count from now on. On a CPU that is for Linux to grant; elsewhere it counts from the process's start."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        _CLEAR.write_text("5")


def peak(device: torch.device) -> int:
    """Bytes: on a GPU the most that torch reserved, on a CPU the process's largest resident set, Python and libraries included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    lines = _STATUS.read_text().splitlines() if _STATUS.exists() else []
    return next(
        (int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")),
        peak_memory() or 0,
    )


def held(device: torch.device) -> int:
    """Bytes in use now, counted as :func:`peak` counts them; where the system does not say, the process's peak so far."""
    give_back(device)
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    lines = _STATUS.read_text().splitlines() if _STATUS.exists() else []
    return next(
        (int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")),
        peak_memory() or 0,
    )


def total_memory(device: torch.device) -> int | None:
    """Bytes that the device has; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def matrix_ceiling(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """FLOP/s of the fastest product of two square matrices, of 8192 rows on a GPU and 1024 on a CPU."""
    n = 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return 2 * n**3 / _fastest(lambda: torch.mm(a, b, out=out), device, seconds)


def copy_bandwidth(device: torch.device, seconds: float = 0.3) -> float:
    """Bytes/s read and written by the fastest copy of 256 MiB."""
    a = torch.zeros(2**28, dtype=torch.uint8, device=device)
    b = torch.empty_like(a)
    return 2 * a.numel() / _fastest(lambda: b.copy_(a), device, seconds)


def machine(device: torch.device) -> dict[str, Any]:
    """What a measurement has to be kept with: the device, the system, and the versions of the packages."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return {
        "device": str(device),
        "name": name,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "memory_bytes": total_memory(device),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "packages": versions(),
    }


def _fastest(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Seconds of the fastest of at least three calls, as many as ``seconds`` allow, after one that warms up."""
    times: list[float] = []
    work()
    while len(times) < 3 or sum(times) < seconds:
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times)
