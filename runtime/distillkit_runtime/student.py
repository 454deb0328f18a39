"""A student as ``distillkit export --onnx`` writes it, opened by onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from distillkit_runtime.errors import RestoreError, first_line
from distillkit_runtime.tradeoffs import Tradeoff, blend_nodes, check_tradeoff, fit_map, is_map

HOW_TO_EXPORT = "`distillkit export RUN --onnx FILE` writes one"
COLOR_FIXES = ("none", "adain", "wavelet")
FATAL = 4
"""Severity of what onnxruntime logs by itself; its exceptions say the rest."""


class Student:
    """A student's graph, and what its metadata say.

    Args:
        path: The ONNX file.

    Raises:
        RestoreError: No such file, or no student in it.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._session = _open(self.path)
        about = self._session.get_modelmeta().custom_metadata_map
        if not _is_student(about) or self._session.get_inputs()[0].name != "image":
            raise RestoreError(
                f"{self.path} - is no student of distillkit, or of another version: its metadata "
                f"are not those of an export; {HOW_TO_EXPORT}"
            )
        self.scale = int(about["scale"])
        """Output size divided by input size."""
        self.size_multiple = int(about["size_multiple"])
        self.color_fix = about["color_fix"]
        """``"none"``, ``"adain"`` or ``"wavelet"``."""
        self.tradeoff = about["tradeoff"]
        """``"input"``, ``"plane"``, ``"fixed"``, or the number that it is fixed at."""
        self._refuse_one_size()

    def check_tradeoff(self, tradeoff: Any) -> None:
        """Refuse a tradeoff that the graph does not have.

        Args:
            tradeoff: A number, a map, or None for the most realistic one that the graph has.

        Raises:
            RestoreError: It is outside [0, 1], or the graph is fixed at another.
        """
        if tradeoff is None:
            return
        wanted = "a map"
        if not is_map(tradeoff):
            wanted = f"{check_tradeoff(tradeoff):g}"
        if self.tradeoff not in ("input", "plane", wanted):
            raise RestoreError(
                f"{self.path} - has one tradeoff ({self.tradeoff}) and cannot restore at another: "
                "leave the tradeoff out, or export the student without --tradeoff"
            )

    def resolve(self, tradeoff: Any, height: int, width: int) -> Tradeoff:
        """Check a tradeoff, and bring a map to the size of a picture.

        Args:
            tradeoff: As of :meth:`check_tradeoff`.
            height: Of the picture.
            width: Of the picture.

        Raises:
            RestoreError: As :meth:`check_tradeoff`, or a map that does not fit.
        """
        self.check_tradeoff(tradeoff)
        if tradeoff is None:
            return 0.0
        if is_map(tradeoff):
            return fit_map(tradeoff, height, width)
        return float(tradeoff)

    def restore(self, image: np.ndarray, tradeoff: Tradeoff) -> np.ndarray:
        """Restore an image of any size.

        Args:
            image: (3, h, w), float32 in [0, 1].
            tradeoff: A resolved number or map. Where the graph takes no map, a map is interpolated
                between a few tradeoffs.

        Returns:
            (3, scale h, scale w), float32.

        Raises:
            RestoreError: The graph fails, or gives values that are not finite.
        """
        if self.tradeoff == "input" and isinstance(tradeoff, np.ndarray):
            return blend_nodes(partial(self.restore, image), tradeoff, self.scale)
        _, height, width = image.shape
        planes = self._pad(image)
        inputs = {}
        if self.tradeoff == "input":
            inputs["tradeoff"] = np.array(tradeoff, np.float32)
        if self.tradeoff == "plane":
            plane = np.broadcast_to(np.float32(tradeoff), (1, height, width))
            planes = np.concatenate([planes, self._pad(plane, "edge")])
        inputs["image"] = planes[None]
        restored = self._run(inputs)[0, :, : height * self.scale, : width * self.scale]
        if not np.isfinite(restored.sum()):
            raise RestoreError(f"{self.path} - the graph gave values that are not finite")
        return restored

    def _pad(self, planes: np.ndarray, mode: str = "reflect") -> np.ndarray:
        """Pad (C, h, w) to multiples at the bottom and the right."""
        _, height, width = planes.shape
        bottom = -height % self.size_multiple
        right = -width % self.size_multiple
        if bottom >= height or right >= width:
            # too small to be reflected
            mode = "edge"
        return np.pad(planes, ((0, 0), (0, bottom), (0, right)), mode)  # type: ignore[call-overload]

    def _run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        # Graphs in float16 take float16.
        if self._session.get_inputs()[0].type == "tensor(float16)":
            inputs["image"] = inputs["image"].astype(np.float16)
        try:
            (restored,) = self._session.run(["restored"], inputs)
        except Exception as e:  # onnxruntime has a class of its own for every code
            height, width = inputs["image"].shape[2:]
            raise RestoreError(
                f"{self.path} - failed on {width} x {height} pixels: {first_line(e)}; if memory "
                "ran out, choose smaller tiles"
            ) from e
        return restored.astype(np.float32)

    def _refuse_one_size(self) -> None:
        *_, height, width = self._session.get_inputs()[0].shape
        if isinstance(height, int) or isinstance(width, int):
            raise RestoreError(
                f"{self.path} - takes {width} x {height} pixels only, and a picture's tiles have "
                "other sizes: export the student without --size"
            )


def _is_student(about: Mapping[str, str]) -> bool:
    """Tell whether a file's metadata are those that an export writes."""
    numbers = [about.get("scale", ""), about.get("size_multiple", "")]
    has_numbers = all(text.isdecimal() and int(text) > 0 for text in numbers)
    return has_numbers and about.get("color_fix") in COLOR_FIXES and "tradeoff" in about


def _open(path: Path) -> onnxruntime.InferenceSession:
    if not path.is_file():
        raise RestoreError(f"{path} - no such file; {HOW_TO_EXPORT}")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL
    # Waiting threads would use a sixth more of the processor, and not be faster.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as e:  # onnxruntime has a class of its own for every code
        raise RestoreError(
            f"{path} - onnxruntime cannot open it: {first_line(e)}; it is no ONNX file, damaged, "
            f"or lacks the file {path.name}.data beside it. {HOW_TO_EXPORT}"
        ) from e
