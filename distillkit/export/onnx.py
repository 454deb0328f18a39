"""A student as one ONNX graph, compared with the student in onnxruntime before the file appears."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distillkit.errors import DistillkitError
from distillkit.export.folder import TOLERANCE
from distillkit.files.atomic import explain_disk_errors, flush_to_disk
from distillkit.inference.student import (
    Student,
    find_student,
    load_student,
    read_about,
    student_folder,
)
from distillkit.objectives.controllability import AdapterScaling

NEEDED = ("onnx", "onnxscript", "onnxruntime")
TRACED = (17, 23)
"""Sides of the input that is traced, in units of the model's ``size_multiple``: primes, so that nothing divides them by chance."""
COMPARED = (TRACED, (16, 24), (33, 12))
"""Sides, in the same unit, of the inputs that the file is compared on."""
TRADEOFFS = (0.0, 0.3, 1.0)


def export_onnx(run: Path | str, out: Path, *, tradeoff: float | None = None) -> str:
    """Write the student of ``run`` as the graph ``out``, which appears only when it gave the student's images.

    Inputs: ``image``, float32 (1, 3, h, w) in [0, 1], h and w multiples of the model's ``size_multiple`` (in the file's metadata, with
    ``scale``), and for a student with the knob ``adapter_scaling`` that is not fixed ``tradeoff``, a float32 scalar, clamped to [0, 1].
    Output: ``restored``, (1, 3, scale h, scale w) in [0, 1]. Weights of more than 2 GB are in ``<out>.data`` beside it.

    Args:
        run: a run's folder, an exported one or a Hub repository. tradeoff: fix the knob there: a smaller graph, without that input.

    Returns:
        what was compared, and how large the largest difference was.

    Raises:
        DistillkitError: the packages are missing, ``out`` exists, the knob takes two passes, the model cannot be exported, or the
            graph gives other images.
    """
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise DistillkitError(
            f"ONNX export needs {', '.join(missing)}: pip install 'distillkit[onnx]'"
        )
    files = [out, out.with_name(f"{out.name}.data")]
    if existing := [file for file in files if file.exists()]:
        raise DistillkitError(f"{existing[0]} - exists; name a new file")
    source = student_folder(find_student(run))
    student, about = load_student(source), read_about(source)
    graph, tradeoffs = _graph(student, tradeoff)
    # The graph names its file of weights, so both are written under their final names.
    with explain_disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
            folder = Path(temporary)
            program = _traced(graph, student.model.size_multiple)
            licenses = "; ".join(
                f"{part}: {license}" for part, license in about["licenses"].items()
            )
            scale, multiple = str(student.model.scale), str(student.model.size_multiple)
            program.model.metadata_props.update(
                scale=scale, size_multiple=multiple, recipe=about["recipe"], licenses=licenses
            )
            program.save(folder / out.name)
            said = _compared(folder / out.name, graph, tradeoffs, student.model.size_multiple)
            for file in reversed(files):
                if (folder / file.name).exists():
                    flush_to_disk(folder / file.name)
                    (folder / file.name).rename(file)
    return said


class _Fixed(nn.Module):
    """(1, 3, h, w) in [0, 1] -> (1, 3, scale h, scale w) in [0, 1], at one tradeoff."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return (self.model.restore(image * 2 - 1) + 1) / 2


class _Knob(nn.Module):
    """The same with the tradeoff as an input, which scales the adapter."""

    def __init__(self, gate: AdapterScaling) -> None:
        super().__init__()
        self.model, self.adapter = gate.student, gate.adapter

    def forward(self, image: Tensor, tradeoff: Tensor) -> Tensor:
        with self.adapter.at(tradeoff.clamp(0, 1)):
            return (self.model.restore(image * 2 - 1) + 1) / 2


def _graph(student: Student, tradeoff: float | None) -> tuple[nn.Module, Sequence[float | None]]:
    """What to trace, and the tradeoffs to compare; None where the graph has no such input."""
    student.check([tradeoff])
    variant = student.variant
    if variant is None:
        return _Fixed(student.model).eval(), [None]
    if not isinstance(variant, AdapterScaling):
        raise DistillkitError(
            f"{type(variant).__name__} takes two passes; a graph is made of students that take one"
        )
    if tradeoff is None:
        return _Knob(variant).eval(), TRADEOFFS
    variant.adapter.set_scale(tradeoff)
    variant.adapter.merge()
    return _Fixed(variant.student).eval(), [None]


def _inputs(multiple: int, sides: tuple[int, int], tradeoff: float | None) -> tuple[Tensor, ...]:
    image = torch.rand(
        1, 3, multiple * sides[0], multiple * sides[1], generator=torch.Generator().manual_seed(0)
    )
    return (image,) if tradeoff is None else (image, torch.tensor(tradeoff))


def _traced(graph: nn.Module, multiple: int) -> Any:
    knob = isinstance(graph, _Knob)
    sides = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    inputs = _inputs(multiple, TRACED, 0.3 if knob else None)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of the exporter, about itself
            program = torch.export.export(
                graph, inputs, dynamic_shapes=(sides, None)[: len(inputs)], strict=False
            )
            names = ["image", "tradeoff"][: len(inputs)]
            return torch.onnx.export(
                program, dynamo=True, input_names=names, output_names=["restored"], verbose=False
            )
    except Exception as e:  # of torch.export, of the translation, or of the model
        raise DistillkitError(
            f"{type(graph.model).__name__} cannot be exported to ONNX: {str(e).strip().splitlines()[0]}"
        ) from e


@torch.no_grad()
def _compared(
    file: Path, graph: nn.Module, tradeoffs: Sequence[float | None], multiple: int
) -> str:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    off = 0.0
    for sides in COMPARED:
        for tradeoff in tradeoffs:
            inputs = _inputs(multiple, sides, tradeoff)
            where = "x".join(str(multiple * side) for side in sides)
            try:
                (made,) = session.run(
                    None, dict(zip(names, (i.numpy() for i in inputs), strict=True))
                )
            except Exception as e:  # onnxruntime has a class of its own for every code
                reason = str(e).strip().splitlines()[0]
                raise DistillkitError(
                    f"not exported: the graph fails on an input of {where} pixels: {reason}"
                ) from e
            here = float(np.abs(made - graph(*inputs).numpy()).max())
            if not here <= TOLERANCE:
                raise DistillkitError(
                    f"not exported: on an input of {where} pixels the graph differs by {here:.2g} of white; "
                    "a student that draws noise, or decides by the size of its input, has no graph"
                )
            off = max(off, here)
    at = "" if tradeoffs[0] is None else f", at tradeoff {', '.join(f'{t:g}' for t in tradeoffs)}"
    return f"onnxruntime: largest difference from the original {off:.1g} of white, on inputs of {len(COMPARED)} sizes{at}"
