"""The two nodes, and what they share."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io
from torch import Tensor

from .students import UpscaleModel, explain_absence, list_students, load_restorer, restore

CATEGORY = "image/upscaling"
TRADEOFF = "0 is most realistic, 1 most faithful to the input."


def _student_input() -> Any:
    return io.Combo.Input("student", options=list_students())


def _tradeoff_input() -> Any:
    return io.Float.Input("tradeoff", default=0.3, min=0.0, max=1.0, step=0.01)


class StudentNode(io.ComfyNode):
    """A node with a student among its inputs."""

    @classmethod
    def validate_inputs(cls, student: str, **_others: Any) -> bool | str:
        return explain_absence(student) or True


class LoadStudent(StudentNode):
    """Loads a student for the nodes that upscale with a model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DistillkitLoadStudent",
            display_name="Load distillkit student",
            category=CATEGORY,
            description=f"A student of models/distillkit at one tradeoff. {TRADEOFF}",
            inputs=[_student_input(), _tradeoff_input()],
            outputs=[io.UpscaleModel.Output()],
        )

    @classmethod
    def execute(cls, student: str, tradeoff: float) -> io.NodeOutput:
        return io.NodeOutput(UpscaleModel(load_restorer(student), tradeoff))


class RestoreWithTradeoff(StudentNode):
    """Restores images, with a tradeoff for each pixel where there is a mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DistillkitRestore",
            display_name="Restore (tradeoff)",
            category=CATEGORY,
            description=f"{TRADEOFF} Where a mask is 1 the result is most faithful; where it is 0, "
            "it has the tradeoff.",
            inputs=[
                io.Image.Input("image"),
                _student_input(),
                _tradeoff_input(),
                io.Mask.Input("mask", optional=True),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(
        cls, image: Tensor, student: str, tradeoff: float, mask: Tensor | None = None
    ) -> io.NodeOutput:
        return io.NodeOutput(restore(load_restorer(student), image, tradeoff, mask))
