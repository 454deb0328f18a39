"""Export a student as ordinary checkpoints, one for each tradeoff.

Tools that load networks by their tensors know nothing of adapters. The tradeoff is linear in the
weights, ``W(t) = (1 - t) W(0) + t W(1)``, so the checkpoints of both ends hold all of it: a tool
that interpolates models makes any other from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from distillkit.console import progress_bar
from distillkit.errors import DistillkitError
from distillkit.export.source import About, load_export_source
from distillkit.files.atomic import atomic_dir
from distillkit.inference.student import Student, load_student
from distillkit.objectives.adapter_scaling import AdapterScaling
from distillkit.tradeoff import FAITHFUL, REALISTIC

ENDS = (REALISTIC, FAITHFUL)


def export_checkpoints(
    run: Path | str, out: Path, tradeoffs: Sequence[float] = (), *, half: bool = False
) -> list[Path]:
    """Write a student's network at tradeoff 0, at 1, and at others.

    The model itself writes each file (``save_checkpoint``) and checks that it is read back as the
    same network. The folder appears only when all files are in it.

    Args:
        run: A run's folder, an exported one, a plugin's trained student or a Hub repository.
        out: The folder to write.
        tradeoffs: Beside 0 and 1. A student with a fixed tradeoff has that one file alone.
        half: float16 instead of float32.

    Returns:
        The files: ``NAME_t0.safetensors``, ``NAME_t0.30.safetensors``, ``NAME_t1.safetensors``.

    Raises:
        DistillkitError: ``out`` exists, a model that has no checkpoints of its own, a variant that
            does not change weights, or a file that is read back as another network.
    """
    _, source, about, student = load_export_source(run, out)
    if not hasattr(student.model, "save_checkpoint"):
        name = about["student"]["use"]
        raise DistillkitError(
            f"{name} has no checkpoints that other tools read: export it with -o, --onnx or --ncnn"
        )
    wanted = choose_tradeoffs(student, tradeoffs)
    files = []
    with atomic_dir(out) as folder:
        for tradeoff in progress_bar(wanted, unit="file", desc="writing"):
            name = f"{about['recipe']}_t{format_tradeoff(tradeoff)}.safetensors"
            # Loaded anew: merging replaces the weights.
            model = merged_model(load_student(source), tradeoff)
            dtype = torch.float16 if half else torch.float32
            model.save_checkpoint(folder / name, _metadata(about, tradeoff), dtype)
            files.append(out / name)
    return files


def format_tradeoff(tradeoff: float) -> str:
    """Write a tradeoff for a file's name: ``0``, ``1``, or at least two digits, ``0.30``."""
    if tradeoff in ENDS:
        return f"{tradeoff:.0f}"
    return max(f"{tradeoff:.2f}", f"{tradeoff:g}", key=len)


def choose_tradeoffs(student: Student, tradeoffs: Sequence[float]) -> list[float]:
    """Return both ends and the wanted tradeoffs; of a student with a fixed one, that one.

    Raises:
        DistillkitError: A tradeoff that the student does not have, or a variant that does not
            change weights.
    """
    if student.variant is None:
        return [student.resolve(t) for t in tradeoffs] or [student.fixed_tradeoff]
    if not isinstance(student.variant, AdapterScaling):
        name = type(student.variant).__name__
        raise DistillkitError(
            f"{name} does not change weights: only adapter_scaling has weights for a tradeoff; "
            "export a folder instead: -o DIR"
        )
    return sorted({*ENDS, *(student.resolve(t) for t in tradeoffs)})


def merged_model(student: Student, tradeoff: float) -> Any:
    """Return a student's model with the adapter merged at a tradeoff."""
    if isinstance(student.variant, AdapterScaling):
        student.variant.adapter.set_scale(tradeoff)
        student.variant.adapter.merge()
    return student.model


def _metadata(about: About, tradeoff: float) -> dict[str, str]:
    return {
        "recipe": about["recipe"],
        "tradeoff": f"{tradeoff:g}",
        "licenses": "; ".join(map(": ".join, about["licenses"].items())),
    }
