"""A stand-in of ComfyUI's interface for nodes, and of what runs a workflow.

Written from published descriptions of the interface, not from ComfyUI's code.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

PACK = Path(__file__).parents[1] / "integrations" / "comfyui"
TILE = 512
OVERLAP = 32


@dataclass
class Input:
    kind: str
    name: str
    optional: bool = False
    default: Any = None
    min: float | None = None
    max: float | None = None
    step: float | None = None
    options: list[str] | None = None

    def check(self, value: Any) -> None:
        """Refuse what the interface does not hand to a node."""
        if self.kind == "FLOAT":
            assert self.min <= value <= self.max
        if self.kind == "COMBO":
            assert value in self.options


@dataclass
class Schema:
    node_id: str
    display_name: str
    category: str
    description: str
    inputs: list[Input]
    outputs: list[str]


class NodeOutput:
    def __init__(self, *values: Any) -> None:
        self.values = values


class ComfyNode:
    """Nodes are classes that are never instantiated."""

    def __init__(self) -> None:
        raise AssertionError("a node has no instances")


class ComfyExtension:
    pass


def io_type(kind: str) -> SimpleNamespace:
    def make_input(name: str, **options: Any) -> Input:
        return Input(kind, name, **options)

    def make_output() -> str:
        return kind

    return SimpleNamespace(Input=make_input, Output=make_output)


def install(monkeypatch: Any) -> None:
    """Make ``comfy_api.v0_0_2`` importable."""
    version = ModuleType("comfy_api.v0_0_2")
    version.ComfyExtension = ComfyExtension
    version.io = SimpleNamespace(
        Schema=Schema,
        ComfyNode=ComfyNode,
        NodeOutput=NodeOutput,
        Image=io_type("IMAGE"),
        Mask=io_type("MASK"),
        Float=io_type("FLOAT"),
        Combo=io_type("COMBO"),
        UpscaleModel=io_type("UPSCALE_MODEL"),
    )
    monkeypatch.setitem(sys.modules, "comfy_api", ModuleType("comfy_api"))
    monkeypatch.setitem(sys.modules, "comfy_api.v0_0_2", version)


def load_pack(monkeypatch: Any, folder: Path) -> tuple[ModuleType, dict[str, type[ComfyNode]]]:
    """Import a pack from its folder, as a host does; return it and its nodes by their ids."""
    install(monkeypatch)
    name = "custom_nodes_distillkit"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    pack = importlib.util.module_from_spec(spec)
    for known in [key for key in sys.modules if key.startswith(name)]:
        monkeypatch.delitem(sys.modules, known)
    monkeypatch.setitem(sys.modules, name, pack)
    spec.loader.exec_module(pack)
    nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
    return pack, {node.define_schema().node_id: node for node in nodes}


class InvalidInput(Exception):
    """What a node's own check says."""


def run_node(node: type[ComfyNode], **values: Any) -> tuple[Any, ...]:
    """Check a node's inputs, and execute it."""
    inputs = {one.name: one for one in node.define_schema().inputs}
    assert values.keys() <= inputs.keys()
    assert values.keys() >= {one.name for one in inputs.values() if not one.optional}
    verdict = node.validate_inputs(**values)
    if verdict is not True:
        raise InvalidInput(verdict)
    for name, value in values.items():
        inputs[name].check(value)
    output = node.execute(**values)
    assert isinstance(output, NodeOutput)
    return output.values


def upscale_with_model(model: Any, image: Tensor, tile: int = TILE) -> Tensor:
    """Upscale (B, h, w, C) as the host's own node does: tile by tile, blended by ramps."""
    model.to(torch.device("cpu"))
    pixels = image.movedim(-1, -3)
    height, width = pixels.shape[2:]
    scale = model.scale
    total = torch.zeros(*pixels.shape[:2], scale * height, scale * width)
    weights = torch.zeros_like(total)
    for top in _starts(height, tile):
        for left in _starts(width, tile):
            restored = model(pixels[:, :, top : top + tile, left : left + tile])
            weight = _feather(*restored.shape[2:], OVERLAP * scale)
            rows = slice(scale * top, scale * top + restored.shape[2])
            columns = slice(scale * left, scale * left + restored.shape[3])
            total[:, :, rows, columns] += restored * weight
            weights[:, :, rows, columns] += weight
    return (total / weights).movedim(-3, -1)


def _starts(side: int, tile: int) -> list[int]:
    last = max(side - tile, 0)
    return [*range(0, last, tile - OVERLAP), last]


def _feather(height: int, width: int, border: int) -> Tensor:
    ramps = []
    for side in (height, width):
        place = torch.arange(1, side + 1)
        ramps.append(torch.minimum(place, place.flip(0)).clamp(max=border) / border)
    return ramps[0][:, None] * ramps[1]


@dataclass
class Workflow:
    """Runs a saved workflow, with stand-ins for the nodes of the host."""

    nodes: dict[str, type[ComfyNode]]
    image: Tensor
    mask: Tensor
    student: str
    """Takes the place of the student that the file names."""
    saved: list[Tensor] = field(default_factory=list)

    def run(self, saved: dict[str, Any]) -> None:
        links = {link[0]: link for link in saved["links"]}
        results: dict[int, tuple[Any, ...]] = {}
        for node in sorted(saved["nodes"], key=lambda node: node["order"]):
            values = {}
            for one in node["inputs"]:
                _number, origin, slot, target, target_slot, kind = links[one["link"]]
                assert (target, kind) == (node["id"], one["type"])
                assert node["inputs"][target_slot] is one
                values[one["name"]] = results[origin][slot]
            results[node["id"]] = self._run_node(node, values)

    def _run_node(self, node: dict[str, Any], values: dict[str, Any]) -> tuple[Any, ...]:
        kind = node["type"]
        if kind == "LoadImage":
            return self.image, self.mask
        if kind == "SaveImage":
            self.saved.append(values["images"])
            return ()
        if kind == "ImageUpscaleWithModel":
            return (upscale_with_model(values["upscale_model"], values["image"]),)
        schema = self.nodes[kind].define_schema()
        assert [one["type"] for one in node["outputs"]] == schema.outputs
        widgets = [one.name for one in schema.inputs if one.kind in ("COMBO", "FLOAT")]
        values |= dict(zip(widgets, node["widgets_values"], strict=True))
        return run_node(self.nodes[kind], **values | {"student": self.student})
