"""Images kept from an evaluation, to be looked at."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from distillkit.evaluation.results import ROLES, STUDENT
from distillkit.evaluation.statistics import photo_of

Images = dict[str, Tensor]
"""Entry label -> uint8 image (3, H, W); also ``gt`` and, where there is an input, ``lq`` (3, h, w)."""


@dataclass
class Gallery:
    """Keeps the first crop of each of the first ``limit`` photos; pass it to ``evaluate(..., observe=gallery)``."""

    limit: int = 4
    side: int = 256
    """Larger images are cut to the central square of this many ground-truth pixels."""
    photos: dict[str, Images] = field(default_factory=dict)

    def __call__(self, item: str, images: Images) -> None:
        if photo_of(item) in self.photos or len(self.photos) >= self.limit:
            return
        shown = {label: image for label, image in images.items() if not label.startswith("linear:")}
        self.photos[photo_of(item)] = center(shown, self.side)


def center(images: Images, side: int) -> Images:
    """The same central region of every image, at most ``side`` ground-truth pixels square, on whole pixels of ``lq``."""
    smallest = images.get("lq", images["gt"]).shape[-2:]
    scale = max(1, images["gt"].shape[-1] // smallest[1])
    height, width = (min(side // scale, length) for length in smallest)
    top, left = (
        (length - part) // 2 for length, part in zip(smallest, (height, width), strict=True)
    )

    def cut(image: Tensor, k: int) -> Tensor:
        return image[..., k * top : k * (top + height), k * left : k * (left + width)].cpu()

    return {label: cut(image, 1 if label == "lq" else scale) for label, image in images.items()}


def caption(label: str, teachers: tuple[str, str] | None) -> str:
    """What to write above the image of an entry."""
    if label in (teachers or ()) and label in ROLES:
        return f"{label} teacher"
    name, _, tradeoff = label.partition("@")
    return {"lq": "input", "gt": "ground truth"}.get(name, name) + (
        f" {tradeoff}" if tradeoff else ""
    )


def in_order(labels: list[str], teachers: tuple[str, str] | None) -> list[str]:
    """Input, baselines, teachers, methods with a knob by tradeoff (the student last), ground truth."""
    rest = [label for label in labels if label not in ("lq", "gt") and "@" not in label]
    rest.sort(key=lambda label: (label in (teachers or ()), label))
    knobs = [label.rpartition("@") for label in labels if "@" in label]
    knobs.sort(key=lambda parts: (parts[0] == STUDENT, parts[0], float(parts[2])))
    return [*(["lq"] if "lq" in labels else []), *rest, *("".join(parts) for parts in knobs), "gt"]
