"""Run a network of ncnn in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor, nn

from distillkit import WeightsError
from distillkit_spandrel.ncnn_files import Layer, read_layers

LARGEST_BLOB = 1 << 26
"""Numbers in one blob: a layer that would make more is refused before it runs."""
RELU = 1
LEAKY_RELU = 2
NEAREST = 1
SUM = 1


class Graph:
    """A network of ncnn with one input and one output.

    Args:
        param: The text that lists the layers.
        weights: The ``.bin``.

    Raises:
        WeightsError: A file cannot be read, has a layer of another type, or is no such network.
    """

    def __init__(self, param: Path, weights: Path) -> None:
        self.param = param
        self.layers = read_layers(param, weights, ("Input", *_OPERATIONS))
        self._check_blobs()

    @property
    def last(self) -> Layer:
        """The layer that gives the network's image."""
        return self.layers[-1]

    def of_kind(self, *kinds: str) -> list[Layer]:
        """Return the layers of some types, in order."""
        return [layer for layer in self.layers if layer.kind in kinds]

    def run(self, image: Tensor, blob: str | None = None) -> Tensor:
        """Restore an image.

        Args:
            image: (1, C, h, w).
            blob: The name of what to return; None: the network's image.

        Raises:
            WeightsError: A layer does not fit what it is given, has an option that is not known, or
                would make too large a blob.
        """
        if blob is None:
            (blob,) = self.last.outputs
        # Sizes first, without numbers: a small file may ask for any amount of memory.
        self._compute(image.to("meta"), blob)
        with torch.inference_mode():
            return self._compute(image, blob)

    def _compute(self, image: Tensor, wanted: str) -> Tensor:
        blobs: dict[str, Tensor] = {}
        for layer in self.layers:
            result = image
            if layer.kind != "Input":
                result = _apply(layer, [blobs[name] for name in layer.inputs], image.device)
            blobs |= dict.fromkeys(layer.outputs, result)
            if wanted in layer.outputs:
                break
        return blobs[wanted]

    def _check_blobs(self) -> None:
        made: set[str] = set()
        taken: set[str] = set()
        for layer in self.layers:
            for name in layer.inputs:
                if name not in made:
                    raise layer.refusal(f"no layer before it makes its input {name}")
            for name in layer.outputs:
                if name in made:
                    raise layer.refusal(f"its output {name} has been made before")
            taken.update(layer.inputs)
            made.update(layer.outputs)
        inputs = len(self.of_kind("Input"))
        unused = sorted(made - taken)
        if inputs != 1 or len(unused) != 1 or self.last.outputs != (unused[0],):
            raise WeightsError(
                f"{self.param} - {inputs} inputs and {len(unused)} outputs; a restorer has one of "
                "each, the output of its last layer"
            )


def _apply(layer: Layer, inputs: Sequence[Tensor], device: torch.device) -> Tensor:
    tensors = {name: tensor.to(device) for name, tensor in layer.tensors.items()}
    try:
        result = _OPERATIONS[layer.kind](layer, inputs, tensors)
    # torch names what does not fit in many ways.
    except (RuntimeError, ValueError, TypeError, IndexError) as e:
        shapes = " and ".join(str(tuple(blob.shape)) for blob in inputs)
        raise layer.refusal(f"it does not fit its input of {shapes}") from e
    if result.numel() > LARGEST_BLOB:
        raise layer.refusal(f"it makes an image of {tuple(result.shape)}, which is too large")
    return result


def _require_options(layer: Layer, options: Mapping[int, int]) -> None:
    """Raise WeightsError unless options have the only values that are known here."""
    for key, value in options.items():
        if layer.integer(key, value) != value:
            raise layer.refusal(f"option {key} is {layer.options[key]}; only {value} is known")


def _split(layer: Layer, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
    (blob,) = inputs
    return blob


def _constant(layer: Layer, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
    return tensors["value"]


def _convolve(layer: Layer, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
    # Dilation, stride, padding value, weights from another layer.
    _require_options(layer, {2: 1, 12: 1, 3: 1, 13: 1, 18: 0, 19: 0})
    (blob,) = inputs
    left = layer.integer(4, 0)
    top = layer.integer(14, left)
    padding = (left, layer.integer(15, left), top, layer.integer(16, top))
    if min(padding) < 0:
        raise layer.refusal("it pads by a rule; only numbers of pixels are known")
    padded = nn.functional.pad(blob, padding)
    convolved = nn.functional.conv2d(padded, tensors["weight"], tensors["bias"])
    activation = layer.integer(9, 0)
    if activation == 0:
        return convolved
    if activation == RELU:
        return convolved.relu()
    if activation == LEAKY_RELU:
        (slope,) = layer.numbers(10)
        return nn.functional.leaky_relu(convolved, slope)
    raise layer.refusal(f"activation {activation} is not known; ReLU and leaky ReLU are")


def _prelu(layer: Layer, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
    (blob,) = inputs
    return nn.functional.prelu(blob, tensors["weight"])


def _relu(layer: Layer, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
    (blob,) = inputs
    return nn.functional.leaky_relu(blob, layer.number(0, 0.0))


def _swish(layer: Layer, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
    (blob,) = inputs
    return nn.functional.silu(blob)


def _sigmoid(layer: Layer, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
    (blob,) = inputs
    return blob.sigmoid()


def _concatenate(layer: Layer, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
    _require_options(layer, {0: 0})
    return torch.cat(list(inputs), dim=1)


_BINARY: Mapping[int, Callable[[Tensor, Tensor | float], Tensor]] = {
    0: torch.add,
    1: torch.sub,
    2: torch.mul,
    3: torch.div,
}


def _combine(layer: Layer, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
    kind = layer.integer(0, 0)
    if kind not in _BINARY:
        raise layer.refusal(f"operation {kind} is not known; +, -, x and / are")
    if layer.integer(1, 0):
        (blob,) = inputs
        return _BINARY[kind](blob, layer.number(2, 0.0))
    one, other = inputs
    return _BINARY[kind](one, other)


def _add_weighted(layer: Layer, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
    if layer.integer(0, 0) != SUM:
        raise layer.refusal("only sums are known")
    weights = layer.numbers(1) or (1.0,) * len(inputs)
    weighted = [weight * blob for weight, blob in zip(weights, inputs, strict=True)]
    return reduce(torch.add, weighted)


def _enlarge(layer: Layer, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
    # Sizes of the output in pixels.
    _require_options(layer, {0: NEAREST, 3: 0, 4: 0})
    (blob,) = inputs
    height, width = layer.number(1, 1.0), layer.number(2, 1.0)
    if height != width or height not in range(1, 17):
        raise layer.refusal(f"factors {height:g} and {width:g}; only whole ones to 16 are known")
    return nn.functional.interpolate(blob, scale_factor=height, mode="nearest")


def _shuffle(layer: Layer, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
    _require_options(layer, {1: 0})
    (blob,) = inputs
    return nn.functional.pixel_shuffle(blob, layer.integer(0, 1))


def _unshuffle(layer: Layer, inputs: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> Tensor:
    _require_options(layer, {1: 0})
    (blob,) = inputs
    return nn.functional.pixel_unshuffle(blob, layer.integer(0, 1))


_OPERATIONS: Mapping[str, Callable[[Layer, Sequence[Tensor], Mapping[str, Tensor]], Tensor]] = {
    "Split": _split,
    "MemoryData": _constant,
    "Convolution": _convolve,
    "PReLU": _prelu,
    "ReLU": _relu,
    "Swish": _swish,
    "Sigmoid": _sigmoid,
    "Concat": _concatenate,
    "BinaryOp": _combine,
    "Eltwise": _add_weighted,
    "Interp": _enlarge,
    "PixelShuffle": _shuffle,
    "Reorg": _unshuffle,
}
