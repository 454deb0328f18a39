"""MUSIQ, MANIQA and CLIPIQA through ``pyiqa``, an optional package; its license (PolyForm Noncommercial) forbids commercial use."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from distillkit.errors import WeightsError
from distillkit.metrics.base import Metric, NoReference

LICENSE = "PolyForm-Noncommercial-1.0.0"


def blind(name: str, model: str) -> Metric:
    """A no-reference metric of pyiqa; higher is better.

    Args:
        name: the column's. model: pyiqa's name of it. Its weights are pyiqa's affair, which downloads them on first use.

    Raises:
        WeightsError: pyiqa is not installed, or could not create the metric (it has no network, for instance).
    """
    try:
        import pyiqa
    except ImportError as e:
        raise WeightsError(
            f"pyiqa is not installed: pip install 'distillkit[iqa]' (license {LICENSE}: no commercial use)"
        ) from e
    try:
        network = pyiqa.create_metric(model, device=torch.device("cpu"))
    except Exception as e:  # whatever its downloads and its models raise
        raise WeightsError(f"pyiqa could not create {model}: {type(e).__name__}: {e}") from e
    return NoReference(
        name,
        f"no reference; {model} of pyiqa {_version()}, RGB, not resized here",
        _scores(network),
        True,
    )


def _scores(network: Any) -> Any:
    @torch.no_grad()
    def scores(images: Tensor) -> Tensor:
        scored = network.to(images.device)
        return torch.stack(
            [scored((image.clamp(-1, 1) + 1) / 2).flatten()[0] for image in images.split(1)]
        )

    return scores


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pyiqa")
    except PackageNotFoundError:
        return "of unknown version"
