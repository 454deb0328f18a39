"""Read ncnn's two files of a network: the layers (``.param``) and their weights (``.bin``).

The files are a stranger's. Every size in them is compared with the length of the ``.bin`` before
anything is allocated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from distillkit import WeightsError

MAGIC = "7767517"
LARGEST_PARAM = 1 << 23
"""Bytes of a ``.param``; that of a Real-ESRGAN has 116 thousand."""
FLOAT32 = 0
FLOAT16 = 0x01306B47
INT8 = 0x000D4B38
"""Flags in front of weights that may be stored in one of several types."""

Value = int | float | tuple[float, ...]


@dataclass(frozen=True)
class Layer:
    """A layer of an ncnn network."""

    kind: str
    """ncnn's name of its type, such as ``Convolution``."""
    name: str
    place: str
    """The line that says it: ``x.param:12``."""
    inputs: tuple[str, ...]
    """Names of the blobs that it takes."""
    outputs: tuple[str, ...]
    options: Mapping[int, Value]
    """By ncnn's numbers."""
    tensors: Mapping[str, Tensor]
    """float32: ``weight`` and ``bias`` of a convolution, ``weight`` of a PReLU, ``value``."""

    def refusal(self, reason: str) -> WeightsError:
        """Return the error that refuses the layer."""
        return WeightsError(f"{self.place} - layer {self.kind} {self.name}: {reason}")

    def integer(self, key: int, default: int) -> int:
        """Return an option that is an integer.

        Raises:
            WeightsError: It is none.
        """
        value = self.options.get(key, default)
        if not isinstance(value, int):
            raise self.refusal(f"option {key} is {value}, not an integer")
        return value

    def number(self, key: int, default: float) -> float:
        """Return an option that is a number.

        Raises:
            WeightsError: It is a list.
        """
        value = self.options.get(key, default)
        if isinstance(value, tuple):
            raise self.refusal(f"option {key} is a list, not a number")
        return value

    def numbers(self, key: int) -> tuple[float, ...]:
        """Return an option that is a list; it is empty where the option is not given.

        Raises:
            WeightsError: It is a number.
        """
        value = self.options.get(key, ())
        if not isinstance(value, tuple):
            raise self.refusal(f"option {key} is {value}, not a list")
        return value


def read_layers(param: Path, weights: Path, known: Collection[str]) -> list[Layer]:
    """Read the layers of a network, each with its weights.

    Args:
        param: The text that lists the layers.
        weights: The ``.bin``.
        known: The types of layers that the caller can use. Weights have no names, so behind a layer
            of another type nothing can be found.

    Raises:
        WeightsError: A file is missing, damaged or of another kind, a layer is of another type, or
            the files do not belong together.
    """
    layers = _read_param(param)
    for layer in layers:
        if layer.kind not in known:
            raise layer.refusal(f"its type is not known; known are {', '.join(sorted(known))}")
    reader = _Weights(weights)
    filled = []
    for layer in layers:
        read = _TENSORS.get(layer.kind, _read_nothing)
        filled.append(replace(layer, tensors=read(layer, reader)))
    reader.check_end(param)
    return filled


def _read_param(path: Path) -> list[Layer]:
    lines = _read_text(path).splitlines()
    if not lines or lines[0].strip() != MAGIC:
        raise WeightsError(f"{path}:1 - not a text of ncnn's layers, which begins with {MAGIC}")
    numbered = [(i, line.split()) for i, line in enumerate(lines, 1) if line.strip()]
    body = numbered[2:]
    try:
        count, _ = map(int, numbered[1][1])
    except (IndexError, ValueError):
        raise WeightsError(f"{path}:2 - expected the numbers of layers and of blobs") from None
    if count != len(body):
        raise WeightsError(
            f"{path}:2 - announces {count} layers, and {len(body)} follow: cut off or edited; get "
            "the file again"
        )
    return [_parse_layer(words, f"{path}:{i}") for i, words in body]


def _read_text(path: Path) -> str:
    data = _read_file(path, LARGEST_PARAM)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise WeightsError(
            f"{path} - not a text: of ncnn's formats, .param is read, and .param.bin is not"
        ) from None


def _read_file(path: Path, most: float = math.inf) -> bytes:
    if not path.is_file():
        raise WeightsError(f"{path} - no such file; a network of ncnn is a .param and a .bin")
    if path.stat().st_size > most:
        raise WeightsError(f"{path} - larger than {most} bytes, which no list of layers is")
    try:
        return path.read_bytes()
    except OSError as e:
        raise WeightsError(f"{path} - cannot be read: {e.strerror}") from e


def _parse_layer(words: list[str], place: str) -> Layer:
    try:
        kind, name, *rest = words
        inputs, outputs = int(rest[0]), int(rest[1])
        blobs = rest[2 : 2 + inputs + outputs]
        options = dict(_parse_option(word) for word in rest[2 + inputs + outputs :])
    except (IndexError, ValueError):
        raise WeightsError(
            f"{place} - not a layer: expected type, name, numbers of inputs and outputs, their "
            "names, and options as 0=64"
        ) from None
    if min(inputs, outputs) < 0 or len(blobs) != inputs + outputs:
        raise WeightsError(f"{place} - not a layer: it names {len(blobs)} of its blobs")
    return Layer(kind, name, place, tuple(blobs[:inputs]), tuple(blobs[inputs:]), options, {})


def _parse_option(word: str) -> tuple[int, Value]:
    """Parse ``0=64``, ``2=2.55e+02``, or a list: ``-23310=1,2.0e-01`` is option 10."""
    key, _, text = word.partition("=")
    number = int(key)
    if number > -23300:
        try:
            return number, int(text)
        except ValueError:
            return number, float(text)
    count, *values = text.split(",")
    if int(count) != len(values):
        raise ValueError(word)
    return -23300 - number, tuple(float(value) for value in values)


class _Weights:
    """A ``.bin``, read from its beginning.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data = _read_file(path)
        self.position = 0

    def tagged(self, count: int, layer: Layer) -> Tensor:
        """Read numbers behind a flag that says their type, as float32."""
        flag = int.from_bytes(self._take(4, layer), "little")
        if flag == FLOAT32:
            return self.floats(count, layer)
        if flag == INT8:
            raise layer.refusal(
                f"its weights in {self.path} are int8; convert the file with float weights"
            )
        if flag != FLOAT16:
            raise layer.refusal(
                f"byte {self.position - 4} of {self.path} should begin its weights, and holds "
                f"0x{flag:08x}, no type that is known; the files are damaged or not of one network"
            )
        # Padded to whole words.
        data = self._take(2 * count + 2 * (count % 2), layer)
        return torch.frombuffer(bytearray(data), dtype=torch.float16)[:count].float()

    def floats(self, count: int, layer: Layer) -> Tensor:
        """Read numbers that are always float32."""
        data = self._take(4 * count, layer)
        return torch.frombuffer(bytearray(data), dtype=torch.float32)

    def check_end(self, param: Path) -> None:
        left = len(self.data) - self.position
        if left:
            raise WeightsError(
                f"{self.path} - holds {left} bytes more than the layers of {param} take; the two "
                "are not of one network"
            )

    def _take(self, size: int, layer: Layer) -> bytes:
        end = self.position + size
        if end > len(self.data):
            raise layer.refusal(
                f"its weights end at byte {end}, and {self.path} has {len(self.data)}: cut off, or "
                "not of this network; get both files again"
            )
        data = self.data[self.position : end]
        self.position = end
        return data


def _read_nothing(layer: Layer, reader: _Weights) -> Mapping[str, Tensor]:
    return {}


def _read_convolution(layer: Layer, reader: _Weights) -> Mapping[str, Tensor]:
    if layer.integer(8, 0):
        raise layer.refusal("its weights are int8; convert the file with float weights")
    outputs, width = layer.integer(0, 0), layer.integer(1, 0)
    height = layer.integer(11, width)
    count = layer.integer(6, 0)
    if min(outputs, width, height, count) < 1 or count % (outputs * width * height):
        raise layer.refusal(
            f"{count} weights are no kernels of {width} x {height} for {outputs} channels"
        )
    weight = reader.tagged(count, layer).reshape(outputs, -1, height, width)
    bias = torch.zeros(outputs)
    if layer.integer(5, 0):
        bias = reader.floats(outputs, layer)
    return {"weight": weight, "bias": bias}


def _read_prelu(layer: Layer, reader: _Weights) -> Mapping[str, Tensor]:
    count = layer.integer(0, 0)
    if count < 1:
        raise layer.refusal("it has no slopes")
    return {"weight": reader.floats(count, layer)}


def _read_memory(layer: Layer, reader: _Weights) -> Mapping[str, Tensor]:
    width, height, channels = (layer.integer(key, 0) for key in (0, 1, 2))
    if min(width, height, channels) < 1 or layer.integer(11, 0):
        raise layer.refusal("its constant is not of channels, height and width")
    # Option 21: whether a flag tells the type.
    read = reader.floats if layer.integer(21, 1) else reader.tagged
    value = read(width * height * channels, layer)
    return {"value": value.reshape(1, channels, height, width)}


_TENSORS: Mapping[str, Callable[[Layer, _Weights], Mapping[str, Tensor]]] = {
    "Convolution": _read_convolution,
    "PReLU": _read_prelu,
    "MemoryData": _read_memory,
}
