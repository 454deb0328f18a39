"""Convert a network of ncnn into a checkpoint that spandrel reads."""

from __future__ import annotations

from pathlib import Path

from distillkit import WeightsError
from distillkit_spandrel.checkpoint import ExpectedNetwork, probe_image, write_checkpoint
from distillkit_spandrel.ncnn_graph import Graph
from distillkit_spandrel.ncnn_networks import name_tensors
from distillkit_spandrel.recognition import recognize


def convert_ncnn(param: Path, weights: Path, out: Path) -> str:
    """Convert an ESRGAN, a Compact or a SPAN.

    The layers in the files are run in torch on an image; the checkpoint appears only if the network
    that spandrel finds in it gives the same.

    Args:
        param: The text that lists the layers.
        weights: The ``.bin``.
        out: The checkpoint to write, of safetensors.

    Returns:
        What was found.

    Raises:
        WeightsError: A file is damaged, or the network is another one.
        PluginError: ``out`` has another suffix.
        DiskError: ``out`` cannot be written.
    """
    graph = Graph(param, weights)
    tensors = {name: tensor.contiguous() for name, tensor in name_tensors(graph).items()}
    found = recognize(tensors, param)
    image = probe_image(found)
    restored = graph.run(image).clamp(0, 1)
    scale = restored.shape[-1] // image.shape[-1]
    expected = ExpectedNetwork(found.architecture.id, scale, image, restored)
    try:
        write_checkpoint(out, tensors, {"converted from": param.name}, expected)
    except WeightsError as e:
        raise WeightsError(
            f"{param} - has the weights of a {found.architecture.name} of scale {found.scale}, but "
            f"its layers are another network, which cannot be converted ({e})"
        ) from e
    return f"{out}: {found.architecture.name}, scale {scale}; it restores an image as {param} does"
