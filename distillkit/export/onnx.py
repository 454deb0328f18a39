"""Export a student as one ONNX graph.

It is compared with the student in onnxruntime before the file appears.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from distillkit.diffusion.model import ModelInput
from distillkit.errors import DistillkitError, first_line
from distillkit.export.adapters import About
from distillkit.export.folder import TOLERANCE
from distillkit.files.atomic import explain_disk_errors, flush_to_disk
from distillkit.inference.student import (
    Student,
    find_student,
    load_student,
    read_about,
    student_folder,
)
from distillkit.objectives.adapter_scaling import AdapterScaling

Sides = tuple[int, int]
"""Height and width of an image, in units of the model's ``size_multiple``."""

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TRACED_SIDES: Sides = (17, 23)
"""The input that is traced: primes, so that nothing divides them by chance."""
COMPARED_SIDES: Sequence[Sides] = (TRACED_SIDES, (16, 24), (33, 12))
TRACED_TRADEOFF = 0.3
GRAPH_TRADEOFFS = (0.0, TRACED_TRADEOFF, 1.0)


def export_onnx(run: Path | str, out: Path, *, tradeoff: float | None = None) -> str:
    """Write a student as an ONNX graph.

    The file appears only if it gives the student's images.

    The graph's input ``image`` is float32 (1, 3, h, w) in [0, 1], h and w multiples of the model's
    ``size_multiple``. Its output ``restored`` is (1, 3, scale h, scale w) in [0, 1]. A student
    whose tradeoff is not fixed has a second input, ``tradeoff``: a float32 scalar, clamped to
    [0, 1]. The file's metadata are ``scale``, ``size_multiple``, ``recipe`` and ``licenses``.
    Weights of more than 2 GB are in ``<out>.data`` beside it.

    Args:
        run: a run's folder, an exported one or a Hub repository.
        out: the file to write.
        tradeoff: fix the tradeoff there: a smaller graph, without that input.

    Returns:
        what was compared, and how large the largest difference was.

    Raises:
        DistillkitError: packages are missing, ``out`` exists, the variant evaluates the network
            twice, the model cannot be exported, or the graph gives other images.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        names = ", ".join(missing)
        raise DistillkitError(f"ONNX export needs {names}: pip install 'distillkit[onnx]'")
    for file in _files(out):
        if file.exists():
            raise DistillkitError(f"{file} - exists; name a new file")
    source = student_folder(find_student(run))
    graph = _student_graph(load_student(source), tradeoff)
    program = _trace(graph)
    program.model.metadata_props.update(_metadata(graph, read_about(source)))
    return _write(program, graph, out)


class FixedTradeoffGraph(nn.Module):
    """A student at one tradeoff, as it is traced.

    It maps (1, 3, h, w) in [0, 1] to (1, 3, scale h, scale w) in [0, 1].
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return (self.model.restore(ModelInput(image * 2 - 1)) + 1) / 2


class TradeoffGraph(FixedTradeoffGraph):
    """The same with the tradeoff as an input, which scales the adapter."""

    def __init__(self, variant: AdapterScaling) -> None:
        super().__init__(variant.student)
        self.adapter = variant.adapter

    def forward(self, image: Tensor, tradeoff: Tensor) -> Tensor:  # type: ignore[override]
        with self.adapter.at_scale(tradeoff.clamp(0, 1)):
            return super().forward(image)


def _student_graph(student: Student, tradeoff: float | None) -> FixedTradeoffGraph:
    """Build the module to trace."""
    if tradeoff is not None:
        student.resolve(tradeoff)
    variant = student.variant
    if variant is None:
        return FixedTradeoffGraph(student.model).eval()
    if not isinstance(variant, AdapterScaling):
        name = type(variant).__name__
        raise DistillkitError(
            f'{name} evaluates the network twice; ONNX export takes variant "adapter_scaling" only'
        )
    if tradeoff is None:
        return TradeoffGraph(variant).eval()
    variant.adapter.set_scale(tradeoff)
    variant.adapter.merge()
    return FixedTradeoffGraph(variant.student).eval()


def _trace(graph: FixedTradeoffGraph) -> Any:
    """Make an ONNX program for images of any size.

    Raises:
        DistillkitError: the model cannot be exported.
    """
    any_size = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    inputs = {"image": _image(graph, TRACED_SIDES)}
    shapes: list[Any] = [any_size]
    if isinstance(graph, TradeoffGraph):
        inputs["tradeoff"] = torch.tensor(TRACED_TRADEOFF)
        shapes.append(None)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # The exporter warns about itself.
            warnings.simplefilter("ignore")
            program = torch.export.export(
                graph, tuple(inputs.values()), dynamic_shapes=tuple(shapes), strict=False
            )
            return torch.onnx.export(
                program,
                dynamo=True,
                input_names=list(inputs),
                output_names=["restored"],
                verbose=False,
            )
    except Exception as e:  # of torch.export, of the translation, or of the model
        name = type(graph.model).__name__
        raise DistillkitError(f"{name} cannot be exported to ONNX: {first_line(e)}") from e


def _metadata(graph: FixedTradeoffGraph, about: About) -> dict[str, str]:
    licenses = map(": ".join, about["licenses"].items())
    return {
        "scale": str(graph.model.scale),
        "size_multiple": str(graph.model.size_multiple),
        "recipe": about["recipe"],
        "licenses": "; ".join(licenses),
    }


def _write(program: Any, graph: FixedTradeoffGraph, out: Path) -> str:
    """Write and compare the graph; return what was compared."""
    with explain_disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        # The graph names its file of weights, so both are written under their final names.
        with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
            folder = Path(temporary)
            program.save(folder / out.name)
            report = _compare(folder / out.name, graph)
            for file in _files(out):
                written = folder / file.name
                if written.exists():
                    flush_to_disk(written)
                    written.rename(file)
    return report


def _files(out: Path) -> list[Path]:
    """Return the file of large weights, and the graph that needs it."""
    # The graph appears last: it is complete as soon as it is there.
    return [out.with_name(f"{out.name}.data"), out]


@torch.no_grad()
def _compare(file: Path, graph: FixedTradeoffGraph) -> str:
    """Run the graph in onnxruntime and compare its images with the student's.

    Raises:
        DistillkitError: the graph fails, or its images differ.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    largest = 0.0
    for inputs in _test_inputs(graph):
        height, width = inputs[0].shape[2:]
        size = f"{height}x{width}"
        try:
            restored = _run(session, inputs)
        except Exception as e:  # onnxruntime has a class of its own for every code
            raise DistillkitError(
                f"not exported: the graph fails on an input of {size} pixels: {first_line(e)}"
            ) from e
        difference = float((restored - graph(*inputs)).abs().max())
        # A comparison with nan is false, so nan is refused as well.
        if not difference <= TOLERANCE:
            raise DistillkitError(
                f"not exported: on an input of {size} pixels the graph differs by "
                f"{difference:.2g} of white; a student that draws noise, or decides by the size "
                "of its input, has no graph"
            )
        largest = max(largest, difference)
    report = f"onnxruntime: largest difference from the original {largest:.1g} of white"
    report += f", on inputs of {len(COMPARED_SIDES)} sizes"
    if isinstance(graph, TradeoffGraph):
        tradeoffs = map("{:g}".format, GRAPH_TRADEOFFS)
        report += f", at tradeoff {', '.join(tradeoffs)}"
    return report


def _test_inputs(graph: FixedTradeoffGraph) -> Iterator[list[Tensor]]:
    """Yield the graph's inputs for each comparison."""
    for sides in COMPARED_SIDES:
        image = _image(graph, sides)
        if not isinstance(graph, TradeoffGraph):
            yield [image]
            continue
        for tradeoff in GRAPH_TRADEOFFS:
            yield [image, torch.tensor(tradeoff)]


def _run(session: Any, inputs: Sequence[Tensor]) -> Tensor:
    """Restore by onnxruntime."""
    values = {}
    for node, tensor in zip(session.get_inputs(), inputs, strict=True):
        values[node.name] = tensor.numpy()
    (restored,) = session.run(None, values)
    return torch.from_numpy(restored)


def _image(graph: FixedTradeoffGraph, sides: Sides) -> Tensor:
    """Draw noise of a size that the model takes."""
    height, width = sides
    multiple = graph.model.size_multiple
    shape = (1, 3, height * multiple, width * multiple)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))
