"""Nodes that restore images with distillkit's students: a folder for ``custom_nodes``."""

from comfy_api.v0_0_2 import ComfyExtension, io

from .nodes import LoadStudent, RestoreWithTradeoff


class DistillkitExtension(ComfyExtension):
    """The nodes of this pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [LoadStudent, RestoreWithTradeoff]


async def comfy_entrypoint() -> DistillkitExtension:
    return DistillkitExtension()
