"""Measure what a device can do and what a process takes of it."""

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

from distillkit import describe_device, peak_memory, versions

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its queued work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def release_memory(device: torch.device) -> None:
    """Return unused memory that torch and the C library keep for later."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return
    # Only the GNU C library can be asked.
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak_memory(device: torch.device) -> None:
    """Let :func:`read_peak_memory` count from now on.

    On a CPU only Linux allows it; elsewhere the peak counts from the start of the process.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR_REFS.exists():
        # 5 resets the peak of the resident set; see proc_pid_clear_refs(5).
        _CLEAR_REFS.write_text("5")


def read_peak_memory(device: torch.device) -> int:
    """Read the most memory used since :func:`reset_peak_memory`.

    Returns:
        Bytes. On a GPU the memory that torch reserved; on a CPU the resident set of the process,
            Python and libraries included.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return _read_status("VmHWM")


def read_used_memory(device: torch.device) -> int:
    """Read the memory in use now, after unused memory is released.

    Returns:
        Bytes. On a GPU the memory of torch's tensors; on a CPU the resident set of the process, or
            its peak where the system does not state the present size.
    """
    release_memory(device)
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return _read_status("VmRSS")


def _read_status(field: str) -> int:
    """Read a size that Linux states about this process, else the process's peak."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                kibibytes = line.split()[1]
                return int(kibibytes) * 1024
    return peak_memory() or 0


def total_memory(device: torch.device) -> int | None:
    """Read the bytes that the device has; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def measure_matmul(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """Measure the FLOP/s of the fastest product of two square matrices.

    They have 8192 rows on a GPU and 1024 on a CPU, whose seconds are those of one core.
    """
    rows = 1024 if device.type == "cpu" else 8192
    a = torch.randn(rows, rows, device=device).to(dtype)
    b = torch.randn(rows, rows, device=device).to(dtype)
    product = torch.empty_like(a)
    return 2 * rows**3 / _time_fastest(lambda: torch.mm(a, b, out=product), device, seconds)


def measure_copy(device: torch.device, seconds: float = 0.3) -> float:
    """Measure the bytes/s read and written by the fastest copy of 256 MiB.

    The seconds of a CPU are those of one core.
    """
    source = torch.zeros(2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _time_fastest(lambda: target.copy_(source), device, seconds)


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Describe the device, the system and the package versions of a measurement."""
    return {
        "device": describe_device(device),
        "on_cpu": device.type == "cpu",
        "cores": os.cpu_count(),
        "memory_bytes": total_memory(device),
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "packages": versions(),
    }


def _time_fastest(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Time the fastest of at least three calls, after one that warms up.

    A CPU is timed by the seconds that it computed: other work on it stretches those of the clock.

    Args:
        work: What is timed.
        device: Where it works.
        seconds: The work is repeated until its calls took this long in all.

    Returns:
        Seconds.
    """
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times: list[float] = []
    work()
    while len(times) < 3 or sum(times) < seconds:
        synchronize(device)
        start = clock()
        work()
        synchronize(device)
        times.append(clock() - start)
    return min(times)
