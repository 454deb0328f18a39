"""Export a student as networks for ncnn, one for each tradeoff.

pnnx converts them. ncnn runs them and they are compared with the student before they appear.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from distillkit.console import progress_bar
from distillkit.diffusion.model import ModelInput
from distillkit.errors import DistillkitError, first_line
from distillkit.export.checkpoints import choose_tradeoffs, format_tradeoff, merged_model
from distillkit.export.folder import TOLERANCE
from distillkit.export.ncnn_process import INPUT, OUTPUT, RESTORED
from distillkit.export.onnx import (
    COMPARED_SIDES,
    HALF_TOLERANCE,
    FixedTradeoffGraph,
    GraphForm,
    draw_image,
)
from distillkit.export.source import load_export_source
from distillkit.files.atomic import atomic_dir, scratch_folder
from distillkit.inference.student import Student, load_student

PACKAGES = ("ncnn", "pnnx")
BLOBS = {"in0": INPUT, "out0": OUTPUT}
"""Names that pnnx gives to the ends of a network, and those that hosts expect."""


def export_ncnn(
    run: Path | str, out: Path, tradeoffs: Sequence[float] = (), *, half: bool = False
) -> list[str]:
    """Write a student's network at tradeoff 0, at 1, and at others, for ncnn.

    Each is a pair of files, ``NAME_x4_t0.30.param`` and ``.bin``, named by the recipe, the scale
    and the tradeoff. Input ``data`` is RGB in [0, 1], and so is output ``output`` once it is
    clamped. ``about.json`` holds the recipe, the scale and the licenses, for which the format has
    no place. The folder appears only if ncnn gives the student's images, at a size that pnnx has
    not seen as well.

    Args:
        run: A run's folder, an exported one, a plugin's trained student or a Hub repository.
        out: The folder to write.
        tradeoffs: Beside 0 and 1. A student with a fixed tradeoff has that one network alone.
        half: Store weights in float16.

    Returns:
        For each network, how large the largest difference was.

    Raises:
        DistillkitError: Packages are missing, ``out`` exists, the variant does not change weights,
            the model takes only multiples of a size, pnnx or ncnn lacks one of its operations, or
            ncnn gives other images.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        names = ", ".join(missing)
        raise DistillkitError(f"ncnn export needs {names}: pip install 'distillkit[ncnn]'")
    _, source, about, student = load_export_source(run, out)
    _check_sizes(student)
    wanted = choose_tradeoffs(student, tradeoffs)
    report = []
    with atomic_dir(out) as folder:
        for tradeoff in progress_bar(wanted, unit="network", desc="converting"):
            # Loaded for each: merging replaces the weights.
            model = merged_model(load_student(source), tradeoff)
            graph = UnclampedGraph(model, GraphForm(tradeoff)).eval()
            name = f"{about['recipe']}_x{model.scale}_t{format_tradeoff(tradeoff)}"
            difference = _write(graph, folder / name, half)
            report.append(f"{name}: largest difference from the original {difference:.1g} of white")
        facts = {key: about[key] for key in ("recipe", "licenses")}
        text = json.dumps({**facts, "scale": student.model.scale}, indent=2)
        (folder / "about.json").write_text(f"{text}\n")
    return report


class UnclampedGraph(FixedTradeoffGraph):
    """A student at one tradeoff, whose images are not clamped.

    Hosts clamp themselves, and some are built without the layer for it.
    """

    def forward(self, image: Tensor) -> Tensor:
        condition = self.model.condition(ModelInput(image * 2 - 1))
        latent = self.model.generate(condition)
        return (self.model.decode(latent, condition) + 1) / 2


def _check_sizes(student: Student) -> None:
    multiple = student.model.size_multiple
    if multiple > 1:
        raise DistillkitError(
            f"{type(student.model).__name__} takes sides that are multiples of {multiple}; hosts "
            "of ncnn networks give tiles of any size; export a graph instead: --onnx FILE"
        )


def _write(graph: FixedTradeoffGraph, network: Path, half: bool) -> float:
    """Convert a graph and compare it.

    Args:
        graph: The student at a tradeoff.
        network: The path of both files without their suffixes.
        half: Store weights in float16.

    Returns:
        The largest difference, in [0, 1].

    Raises:
        DistillkitError: It does not convert, or ncnn gives other images.
    """
    with scratch_folder() as scratch:
        _trace(graph, scratch / "student.pt")
        _convert(graph, network, scratch, half)
        difference = _compare(graph, network, scratch)
    tolerance = HALF_TOLERANCE if half else TOLERANCE
    # A comparison with nan is false, so nan is refused as well.
    if not difference <= tolerance:
        raise _refusal(graph, f"ncnn gives images that differ by {difference:.2g} of white")
    return difference


def _trace(graph: FixedTradeoffGraph, file: Path) -> None:
    image = draw_image(graph, COMPARED_SIDES[0])
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # The tracer warns about constants. Whether they matter is seen at other sizes.
            warnings.simplefilter("ignore")
            torch.jit.trace(graph, (image,), check_trace=False).save(str(file))
    except Exception as e:  # of the tracer, or of the model
        raise _refusal(graph, first_line(e)) from e


def _convert(graph: FixedTradeoffGraph, network: Path, scratch: Path, half: bool) -> None:
    """Convert ``scratch/student.pt`` to ``network.param`` and ``network.bin``."""
    import pnnx

    shapes = []
    # pnnx takes axes for free that differ between its two examples.
    for height, width in COMPARED_SIDES[:2]:
        shapes.append(f"[1,3,{height},{width}]f32")
    command = [
        pnnx.EXEC_PATH,
        "student.pt",
        f"inputshape={shapes[0]}",
        f"inputshape2={shapes[1]}",
        f"fp16={int(half)}",
        "ncnnparam=student.param",
        "ncnnbin=student.bin",
    ]
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, errors="replace")
    files = [scratch / "student.param", scratch / "student.bin"]
    if done.returncode or not all(file.exists() for file in files):
        raise _refusal(graph, f"pnnx fails: {_reason(done)}")
    param, weights = files
    network.with_name(f"{network.name}.param").write_text(_rename_blobs(param.read_text()))
    network.with_name(f"{network.name}.bin").write_bytes(weights.read_bytes())


def _rename_blobs(param: str) -> str:
    for own, name in BLOBS.items():
        param = re.sub(rf"(?<=\s){own}(?=\s)", name, param)
    return param


def _compare(graph: FixedTradeoffGraph, network: Path, scratch: Path) -> float:
    """Return the largest difference between ncnn's images and the student's."""
    images = {}
    for sides in COMPARED_SIDES:
        images[f"{sides[0]}x{sides[1]}"] = draw_image(graph, sides)
    restored = _restore(graph, network, images, scratch)
    differences = []
    for size, image in images.items():
        with torch.no_grad():
            expected = graph(image)[0].clamp(0, 1)
        if restored[size].shape != expected.shape:
            raise _refusal(graph, f"ncnn gives another size for an input of {size} pixels")
        differences.append((restored[size].clamp(0, 1) - expected).abs().max())
    # Unlike max(), this keeps nan.
    return float(torch.stack(differences).max())


def _restore(
    graph: FixedTradeoffGraph, network: Path, images: dict[str, Tensor], scratch: Path
) -> dict[str, Tensor]:
    file = scratch / "images.safetensors"
    save_file({size: image[0] for size, image in images.items()}, file)
    command = [sys.executable, "-m", "distillkit.export.ncnn_process"]
    command += [str(network), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        raise _refusal(graph, f"ncnn cannot run it: {_reason(done)}")
    return load_file(scratch / RESTORED)


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """Return the last words of a program that failed."""
    lines = done.stderr.strip().splitlines()
    # A crash says nothing itself; what was said before is its best explanation.
    return lines[-1].strip() if lines else f"it says nothing, code {done.returncode}"


def _refusal(graph: FixedTradeoffGraph, reason: str) -> DistillkitError:
    name = type(graph.model).__name__
    return DistillkitError(f"{name} cannot be exported to ncnn: {reason}")
