"""Make a torchvision importable that was built against another torch.

torchvision's Python code declares meta kernels for two operators of its compiled library. Where
that library cannot be loaded (a CPU build of torch beside a CUDA build of torchvision), the import
fails with "operator torchvision::nms does not exist", and so do those of diffusers, peft,
transformers and lpips. A one-shot import hook declares the two operators just before torchvision is
first imported, and only if its library does not load. On any other machine it does nothing.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class _TorchvisionFinder:
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.origin is not None:
                _declare_missing_operators(Path(spec.origin).parent)
        return None


def _declare_missing_operators(folder: Path) -> None:
    import torch

    try:
        for library in folder.glob("_C*.*"):
            torch.ops.load_library(library)
    except OSError:
        for name in ("torchvision::nms", "torchvision::qnms"):
            torch.library.define(name, _SCHEMA)


def install() -> None:
    """Put the hook first on ``sys.meta_path``; does nothing if torchvision is already imported."""
    if "torchvision" not in sys.modules and not any(
        isinstance(f, _TorchvisionFinder) for f in sys.meta_path
    ):
        sys.meta_path.insert(0, _TorchvisionFinder())
