"""Export a student as one ONNX graph.

It is compared with the student in onnxruntime before the file appears.
"""

from __future__ import annotations

import math
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distillkit.adapters import LoRAAdapter
from distillkit.console import progress_bar
from distillkit.diffusion.model import ModelInput
from distillkit.errors import DistillkitError, first_line
from distillkit.export.folder import TOLERANCE
from distillkit.export.source import About
from distillkit.files.atomic import (
    check_writable,
    explain_disk_errors,
    flush_to_disk,
    name_temporary,
)
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


@dataclass(frozen=True)
class GraphForm:
    """The inputs of a graph, and its numbers."""

    tradeoff: float | None = None
    """Fix the tradeoff: a smaller graph without an input for it."""
    plane: bool = False
    """One input of four planes, RGB and the tradeoff of each pixel, for hosts that feed a network
    one image and nothing else."""
    size: tuple[int, int] | None = None
    """Height and width of the input, pixels; None: any size."""
    half: bool = False
    """float16 instead of float32, inputs and outputs included."""

    @property
    def tolerance(self) -> float:
        """Largest difference from the student, in [0, 1]."""
        return HALF_TOLERANCE if self.half else TOLERANCE

    @property
    def dtype(self) -> torch.dtype:
        return torch.float16 if self.half else torch.float32


ANY_SIZE = GraphForm()
"""float32, any size, with an input for a tradeoff that is not fixed."""

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TRACED_SIDES: Sides = (17, 23)
"""The input that is traced: primes, so that nothing divides them by chance."""
COMPARED_SIDES: Sequence[Sides] = (TRACED_SIDES, (16, 24), (33, 12))
SMOOTH = 4
"""Pixels between the random colors of an image that graphs are compared on."""
TRACED_TRADEOFF = 0.3
HALF_TOLERANCE = 2 / 255
"""Largest difference that a graph in float16 may have, in [0, 1]: two gray levels."""
SIDE_NAMES = ("height", "width")
"""Names of the input's sides in a graph for any size."""
GRAPH_TRADEOFFS = (0.0, TRACED_TRADEOFF, 1.0)


def export_onnx(run: Path | str, out: Path, form: GraphForm = ANY_SIZE) -> str:
    """Write a student as an ONNX graph.

    The file appears only if it gives the student's images.

    The graph's input ``image`` is (1, 3, height, width) in [0, 1], with sides that are multiples of
    the model's ``size_multiple``. Its output ``restored`` is (1, 3, scale height, scale width) in
    [0, 1]. A student whose tradeoff is not fixed has a second input, ``tradeoff``: a float32
    scalar, clamped to [0, 1]; or, with ``form.plane``, a fourth plane of ``image``. The file's
    metadata are ``scale``, ``size_multiple``, ``tradeoff``, ``color_fix`` (which is no part of the
    graph), ``recipe`` and ``licenses``. Weights of more than 2 GB are in ``<out>.data`` beside it.

    Args:
        run: A run's folder, an exported one, a plugin's trained student or a Hub repository.
        out: The file to write.
        form: Which inputs it has, and in which precision.

    Returns:
        What was compared, and how large the largest difference was.

    Raises:
        DistillkitError: Packages are missing, ``out`` exists, the variant evaluates the network
            twice or takes no map, the model draws random numbers or cannot be exported, or the
            graph gives other images.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        names = ", ".join(missing)
        raise DistillkitError(f"ONNX export needs {names}: pip install 'distillkit[onnx]'")
    for file in _output_files(out):
        if file.exists():
            raise DistillkitError(f"{file} - exists; name a new file")
    check_writable(out.parent)
    source = student_folder(find_student(run))
    graph = _student_graph(load_student(source), form)
    _refuse_draws(graph)
    program = _trace(graph)
    program.model.metadata_props.update(_metadata(graph, read_about(source)))
    return _write(program, graph, out)


class FixedTradeoffGraph(nn.Module):
    """A student at one tradeoff, as it is traced.

    It maps (1, 3, h, w) in [0, 1] to (1, 3, scale h, scale w) in [0, 1].
    """

    channels = 3

    def __init__(self, model: Any, form: GraphForm) -> None:
        super().__init__()
        self.model = model
        self.form = form

    def forward(self, image: Tensor) -> Tensor:
        return (self.model.restore(ModelInput(image * 2 - 1)) + 1) / 2


class TradeoffGraph(FixedTradeoffGraph):
    """The same with the tradeoff as an input, which scales the adapter."""

    def __init__(self, variant: AdapterScaling, form: GraphForm) -> None:
        super().__init__(variant.student, form)
        self.adapter = variant.adapter
        # A product for each weight is faster than a second layer.
        if isinstance(self.adapter, LoRAAdapter):
            self.adapter = self.adapter.to_full()

    def forward(self, image: Tensor, tradeoff: Tensor) -> Tensor:  # type: ignore[override]
        with self.adapter.at_scale(tradeoff.clamp(0, 1).to(image)):
            return super().forward(image)


class PlaneGraph(FixedTradeoffGraph):
    """The same with the tradeoff of each pixel as a fourth plane of the image."""

    channels = 4

    def __init__(self, variant: AdapterScaling, form: GraphForm) -> None:
        super().__init__(variant.student, form)
        self.adapter = variant.adapter

    def forward(self, image: Tensor) -> Tensor:
        with self.adapter.at_map(image[:, 3:].clamp(0, 1)):
            return super().forward(image[:, :3])


def _student_graph(student: Student, form: GraphForm) -> FixedTradeoffGraph:
    """Build the module to trace."""
    if form.tradeoff is not None:
        student.resolve(form.tradeoff)
    _check_size(student, form)
    variant = student.variant
    if variant is None:
        _refuse_plane(form, "a student with a fixed tradeoff has none to put into a plane")
        return FixedTradeoffGraph(student.model, form).eval()
    if not isinstance(variant, AdapterScaling):
        name = type(variant).__name__
        raise DistillkitError(
            f"{name} evaluates the network twice; ONNX export takes variant "
            '"adapter_scaling" only. Export a folder instead: -o DIR'
        )
    if form.plane:
        if not variant.takes_map:
            _refuse_plane(
                form,
                f"{type(student.model).__name__} has adapted layers that are not over images, so "
                "one pass takes one tradeoff; fix it with --tradeoff",
            )
        return PlaneGraph(variant, form).eval()
    if form.tradeoff is None:
        return TradeoffGraph(variant, form).eval()
    variant.adapter.set_scale(form.tradeoff)
    variant.adapter.merge()
    return FixedTradeoffGraph(variant.student, form).eval()


def _refuse_plane(form: GraphForm, reason: str) -> None:
    if form.plane:
        raise DistillkitError(f"no tradeoff plane: {reason}")


def _check_size(student: Student, form: GraphForm) -> None:
    multiple = student.model.size_multiple
    if form.size is not None and any(side % multiple or side < 1 for side in form.size):
        height, width = form.size
        raise DistillkitError(
            f"an input of {width} x {height} pixels: the model takes multiples of {multiple}; "
            "choose such a --size"
        )


@torch.no_grad()
def _refuse_draws(graph: FixedTradeoffGraph) -> None:
    """Raise DistillkitError if two restorations of one image differ."""
    inputs = next(_test_inputs(graph))
    restored = []
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            restored.append(_expected(graph, inputs))
    if not torch.equal(*restored):
        name = type(graph.model).__name__
        raise DistillkitError(
            f"{name} draws random numbers whenever it restores, and an ONNX graph has no seed: a "
            "student that draws has no graph; export a folder instead: -o DIR"
        )


def _trace(graph: FixedTradeoffGraph) -> Any:
    """Make an ONNX program.

    Raises:
        DistillkitError: The model cannot be exported.
    """
    graph.to(graph.form.dtype)
    inputs = {"image": draw_image(graph, TRACED_SIDES)}
    shapes: list[Any] = [None]
    if graph.form.size is None:
        shapes = [{2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}]
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
            onnx_program = torch.onnx.export(
                program,
                dynamo=True,
                input_names=list(inputs),
                output_names=["restored"],
                verbose=False,
            )
    except Exception as e:  # of torch.export, of the translation, or of the model
        name = type(graph.model).__name__
        precision = " in float16" if graph.form.half else ""
        raise DistillkitError(
            f"{name} cannot be exported to ONNX{precision}: {first_line(e)}"
        ) from e
    if graph.form.size is None:
        _name_sides(onnx_program)
    return onnx_program


def _name_sides(program: Any) -> None:
    """Call the sides of the input height and width, wherever the graph names them."""
    import onnx_ir

    graph = program.model.graph
    symbols = [str(side.value) for side in graph.inputs[0].shape[2:]]
    values = [*graph.inputs, *graph.outputs]
    for node in graph:
        values += node.outputs
    for value in values:
        if value.shape is None:
            continue
        sides = [_renamed(side, symbols, onnx_ir) for side in value.shape]
        value.shape = onnx_ir.Shape(sides)


def _renamed(side: Any, symbols: Sequence[str], onnx_ir: Any) -> Any:
    if isinstance(side, int):
        return side
    text = str(side.value)
    for symbol, name in zip(symbols, SIDE_NAMES, strict=True):
        text = re.sub(rf"\b{symbol}\b", name, text)
    return onnx_ir.SymbolicDim(text)


def _metadata(graph: FixedTradeoffGraph, about: About) -> dict[str, str]:
    licenses = map(": ".join, about["licenses"].items())
    tradeoff = "fixed" if graph.form.tradeoff is None else f"{graph.form.tradeoff:g}"
    if isinstance(graph, TradeoffGraph | PlaneGraph):
        tradeoff = "plane" if graph.form.plane else "input"
    return {
        "scale": str(graph.model.scale),
        "size_multiple": str(graph.model.size_multiple),
        "tradeoff": tradeoff,
        "color_fix": about.get("color_fix", "none"),
        "recipe": about["recipe"],
        "licenses": "; ".join(licenses),
    }


def _write(program: Any, graph: FixedTradeoffGraph, out: Path) -> str:
    """Write and compare the graph; return what was compared."""
    with explain_disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        # The graph names its file of weights, so both are written under their final names.
        folder = name_temporary(out)
        try:
            folder.mkdir()
            program.save(folder / out.name)
            report = _compare(folder / out.name, graph)
            for file in _output_files(out):
                written = folder / file.name
                if written.exists():
                    flush_to_disk(written)
                    written.rename(file)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return report


def _output_files(out: Path) -> list[Path]:
    """Return the file of large weights, and the graph that needs it."""
    # The graph appears last: it is complete as soon as it is there.
    return [out.with_name(f"{out.name}.data"), out]


@torch.no_grad()
def _compare(file: Path, graph: FixedTradeoffGraph) -> str:
    """Run the graph in onnxruntime and compare its images with the student's.

    Raises:
        DistillkitError: The graph fails, or its images differ.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    # What a graph in float16 is compared with is computed in float32.
    graph.float()
    largest = 0.0
    for inputs in progress_bar(_test_inputs(graph), unit="image", desc="comparing"):
        height, width = inputs[0].shape[2:]
        size = f"{height}x{width}"
        try:
            restored = _run(session, inputs)
        except Exception as e:  # onnxruntime has a class of its own for every code
            raise DistillkitError(
                f"not exported: the graph fails on an input of {size} pixels: {first_line(e)}"
                f"{_one_size_hint(graph)}"
            ) from e
        difference = float((restored - _expected(graph, inputs)).abs().max())
        # A comparison with nan is false, so nan is refused as well.
        if not difference <= graph.form.tolerance:
            raise DistillkitError(
                f"not exported: on an input of {size} pixels the graph differs by "
                f"{difference:.2g} of white; a student that decides by the size of its input has "
                f"no graph{_one_size_hint(graph)}"
            )
        largest = max(largest, difference)
    report = f"onnxruntime: largest difference from the original {largest:.1g} of white"
    sizes = len(_compared_sides(graph))
    report += f", on inputs of {sizes} sizes" if sizes > 1 else ", on an input of that size"
    if isinstance(graph, TradeoffGraph):
        tradeoffs = map("{:g}".format, GRAPH_TRADEOFFS)
        report += f", at tradeoff {', '.join(tradeoffs)}"
    return report


def _test_inputs(graph: FixedTradeoffGraph) -> Iterator[list[Tensor]]:
    """Yield the graph's inputs for each comparison."""
    for sides in _compared_sides(graph):
        image = draw_image(graph, sides)
        if not isinstance(graph, TradeoffGraph):
            yield [image]
            continue
        for tradeoff in GRAPH_TRADEOFFS:
            yield [image, torch.tensor(tradeoff)]


def _compared_sides(graph: FixedTradeoffGraph) -> Sequence[Sides]:
    return COMPARED_SIDES if graph.form.size is None else [TRACED_SIDES]


def _one_size_hint(graph: FixedTradeoffGraph) -> str:
    """Return what to try where a graph for any size was refused; empty for one of a fixed size."""
    if graph.form.size is not None:
        return ""
    return "; a graph of one size may work: --size WIDTHxHEIGHT"


def _expected(graph: FixedTradeoffGraph, inputs: Sequence[Tensor]) -> Tensor:
    return graph(*(tensor.float() for tensor in inputs))


def _run(session: Any, inputs: Sequence[Tensor]) -> Tensor:
    """Restore by onnxruntime."""
    values = {}
    for node, tensor in zip(session.get_inputs(), inputs, strict=True):
        values[node.name] = tensor.numpy()
    (restored,) = session.run(None, values)
    return torch.from_numpy(restored).float()


def draw_image(graph: FixedTradeoffGraph, sides: Sides) -> Tensor:
    """Draw an image of a size that the model takes; of the graph's own size where that is fixed.

    It is as smooth as photographs are: noise drives some networks (SPAN) so far out of their range
    that the rounding of float32 alone gives another image.
    """
    multiple = graph.model.size_multiple
    height, width = graph.form.size or (sides[0] * multiple, sides[1] * multiple)
    coarse_sides = (math.ceil(height / SMOOTH), math.ceil(width / SMOOTH))
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, graph.channels, *coarse_sides, generator=generator)
    image = F.interpolate(coarse, (height, width), mode="bilinear")
    return image.to(graph.form.dtype)
