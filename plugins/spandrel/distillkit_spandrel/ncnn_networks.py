"""Recognize ESRGAN, Compact and SPAN among networks of ncnn, and name their weights for spandrel.

Files of ncnn keep no names that can be relied on, but the order of a network's convolutions. What
is recognized is a guess: whether it is the same network is known when both have run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from distillkit import WeightsError
from distillkit_spandrel.ncnn_files import Layer
from distillkit_spandrel.ncnn_graph import Graph
from distillkit_spandrel.trainable import expand_convolution

SPAN_MEAN = (0.4488, 0.4371, 0.4040)
SPAN_RANGE = 255.0
"""What spandrel subtracts of and multiplies SPAN's input by; its checkpoints do not hold them."""
MEAN_TOLERANCE = 1e-4
"""How far a network's own mean may be from it, or from 0."""
SPAN_CONVOLUTIONS = 22
ESRGAN_BLOCK = 15
"""Convolutions in a block."""
ESRGAN_OTHERS = 4
"""Convolutions outside of the blocks, beside one for each doubling."""

Tensors = dict[str, Tensor]


def name_tensors(graph: Graph) -> Tensors:
    """Return the weights of an ESRGAN, Compact or SPAN under the names that spandrel reads.

    Raises:
        WeightsError: It is none of the three.
    """
    if graph.of_kind("PReLU"):
        _check_end(graph, "Compact", ("BinaryOp", "Eltwise"))
        return _name_compact(graph)
    if graph.of_kind("Sigmoid"):
        _check_end(graph, "SPAN", ("PixelShuffle",))
        return _name_span(graph)
    if graph.of_kind("Concat"):
        _check_end(graph, "ESRGAN", ("Convolution",))
        return _name_esrgan(graph)
    raise WeightsError(
        f"{graph.param} - none of ESRGAN, Compact and SPAN, whose networks alone are converted: it "
        "has no layers PReLU (Compact), Sigmoid (SPAN) or Concat (ESRGAN)"
    )


def _check_end(graph: Graph, name: str, kinds: Sequence[str]) -> None:
    # Behind its end a network may scale its image, as those that distillkit exports do.
    *_, last = (layer for layer in graph.layers if not _is_scaling(layer))
    if last.kind not in kinds:
        raise last.refusal(
            f"not a network that can be converted: a {name} ends with {' or '.join(kinds)}, and "
            "spandrel has no such layer behind it; look for a file without it"
        )


def _is_scaling(layer: Layer) -> bool:
    return layer.kind == "BinaryOp" and layer.integer(1, 0) == 1


def _name_compact(graph: Graph) -> Tensors:
    tensors: Tensors = {}
    kinds = ("Convolution", "PReLU")
    for i, layer in enumerate(graph.of_kind(*kinds)):
        if layer.kind != kinds[i % 2]:
            raise layer.refusal(f"in its place a Compact has a {kinds[i % 2]}")
        if layer.kind == "Convolution":
            tensors |= _name_convolution(f"body.{i}", layer)
        else:
            channels = tensors[f"body.{i - 1}.bias"].numel()
            # One slope for all channels, or one each; spandrel has one each.
            tensors[f"body.{i}.weight"] = _repeat(layer, channels)
    return tensors


def _repeat(layer: Layer, count: int) -> Tensor:
    slopes = layer.tensors["weight"]
    if slopes.numel() not in (1, count):
        raise layer.refusal(f"{slopes.numel()} slopes for {count} channels")
    return slopes.expand(count)


def _name_esrgan(graph: Graph) -> Tensors:
    convolutions = graph.of_kind("Convolution")
    doublings = len(graph.of_kind("Interp"))
    blocks, rest = divmod(len(convolutions) - ESRGAN_OTHERS - doublings, ESRGAN_BLOCK)
    if blocks < 1 or rest:
        raise WeightsError(
            f"{graph.param} - none of ESRGAN, Compact and SPAN, whose networks alone are "
            f"converted: {len(convolutions)} convolutions and {doublings} layers Interp make no "
            f"ESRGAN, which has {ESRGAN_BLOCK} in each block, {ESRGAN_OTHERS} others and one "
            "behind each Interp"
        )
    tensors: Tensors = {}
    names = _esrgan_names(blocks, doublings)
    for name, layer in zip(names, convolutions, strict=True):
        tensors |= _name_convolution(name, layer)
    return tensors


def _esrgan_names(blocks: int, doublings: int) -> Iterator[str]:
    yield "model.0"
    for block in range(blocks):
        for i in range(ESRGAN_BLOCK):
            dense, convolution = divmod(i, 5)
            yield f"model.1.sub.{block}.RDB{dense + 1}.conv{convolution + 1}.0"
    yield f"model.1.sub.{blocks}"
    for doubling in range(1, doublings + 1):
        yield f"model.{3 * doubling}"
    yield f"model.{3 * doublings + 2}"
    yield f"model.{3 * doublings + 4}"


def _name_span(graph: Graph) -> Tensors:
    convolutions = graph.of_kind("Convolution")
    if len(convolutions) != SPAN_CONVOLUTIONS:
        raise WeightsError(
            f"{graph.param} - none of ESRGAN, Compact and SPAN, whose networks alone are "
            f"converted: a SPAN has {SPAN_CONVOLUTIONS} convolutions, this network has "
            f"{len(convolutions)}"
        )
    first, *blocks, second, joining, last = convolutions
    merged = {"conv_1": first, "conv_2": second}
    for i, layer in enumerate(blocks):
        block, convolution = divmod(i, 3)
        merged[f"block_{block + 1}.c{convolution + 1}_r"] = layer
    factor, tensors = _read_normalization(graph, first)
    for name, layer in merged.items():
        kernel, bias = layer.tensors["weight"], layer.tensors["bias"]
        if kernel.shape[2:] != (3, 3):
            raise layer.refusal("in its place a SPAN has a convolution of 3 x 3")
        if layer is first:
            kernel = kernel * factor
        for original, value in expand_convolution(kernel, bias).items():
            tensors[f"{name}.{original}"] = value
    return tensors | _name_convolution("conv_cat", joining) | _name_convolution("upsampler.0", last)


def _read_normalization(graph: Graph, first: Layer) -> tuple[float, Tensors]:
    """Find what a SPAN subtracts of its input and multiplies it by.

    Returns:
        By what the first kernel must be multiplied, so that spandrel's range does the same; and
        what tells spandrel that nothing is subtracted.

    Raises:
        WeightsError: It subtracts another mean than spandrel, which no checkpoint can say.
    """
    if len(first.inputs) != 1:
        raise first.refusal("it has several inputs")
    (blob,) = first.inputs
    black = graph.run(torch.zeros(1, 3, 1, 1), blob).flatten().double()
    white = graph.run(torch.ones(1, 3, 1, 1), blob).flatten().double()
    if black.numel() != len(SPAN_MEAN):
        raise first.refusal("before it the image is resized; a SPAN only subtracts and multiplies")
    span = white - black
    mean = -black / span
    factor = float(span[0])
    own = torch.tensor(SPAN_MEAN, dtype=torch.float64)
    if (mean - own).abs().max() <= MEAN_TOLERANCE:
        return factor / SPAN_RANGE, {}
    if mean.abs().max() <= MEAN_TOLERANCE:
        return factor, {"no_norm": torch.zeros(1)}
    subtracted = ", ".join(f"{value:.4g}" for value in mean)
    raise first.refusal(
        f"before it {subtracted} is subtracted from the image. spandrel always subtracts "
        f"{', '.join(map(str, SPAN_MEAN))}, which no checkpoint can change, so this SPAN cannot be "
        "converted"
    )


def _name_convolution(name: str, layer: Layer) -> Tensors:
    return {f"{name}.{key}": tensor for key, tensor in layer.tensors.items()}
