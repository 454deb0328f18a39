"""MUSIQ, MANIQA and CLIPIQA from ``pyiqa``.

pyiqa is an optional package; its license (PolyForm Noncommercial) forbids commercial use.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

from distillkit.errors import MissingPackageError, WeightsError
from distillkit.metrics.base import Metric, NoReference


def pyiqa_metric(name: str, model: str) -> Metric:
    """Make a no-reference metric of pyiqa; higher is better.

    pyiqa downloads its weights on first use.

    Args:
        name: The metric's name here.
        model: The name that pyiqa has for it.

    Raises:
        MissingPackageError: pyiqa is not installed.
        WeightsError: pyiqa could not create the metric (it has no network, for instance).
    """
    try:
        import pyiqa
    except ImportError as e:
        raise MissingPackageError(
            "pyiqa is not installed",
            "pip install 'distillkit[iqa]' "
            "(license PolyForm-Noncommercial-1.0.0: no commercial use)",
        ) from e
    try:
        network = pyiqa.create_metric(model, device=torch.device("cpu"))
    except Exception as e:  # its downloads and its models raise nearly anything
        # Errors of a connection, or of a file that should have come over it, are OSErrors.
        remedy = "measure once while online, pyiqa downloads it" if isinstance(e, OSError) else ""
        problem = f"pyiqa could not create {model}: {type(e).__name__}: {e}"
        raise WeightsError(problem, remedy) from e

    @torch.no_grad()
    def measure(images: Tensor) -> Tensor:
        scorer = network.to(images.device)
        scores = []
        for image in images.split(1):
            in_unit_range = (image.clamp(-1, 1) + 1) / 2
            scores.append(scorer(in_unit_range).flatten()[0])
        return torch.stack(scores)

    return NoReference(
        name=name,
        protocol=f"no reference; {model} of pyiqa {_version()}, RGB, not resized here",
        function=measure,
        higher_is_better=True,
    )


def _version() -> str:
    try:
        return version("pyiqa")
    except PackageNotFoundError:
        return "of unknown version"
