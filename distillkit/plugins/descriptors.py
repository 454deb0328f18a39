"""Descriptors: what a plugin says it offers. They are light; heavy code is imported only inside ``build``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from pydantic import BaseModel

    from distillkit.files.weights import WeightFile

Capability = Literal["score", "output"]


def _no_weights(config: Any) -> tuple[WeightFile, ...]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One named thing of a plugin.

    A recipe names it by ``use = "<plugin>/<name>"`` (or ``"<name>"`` where that is unique); the other keys of that table are
    validated by ``config`` and the result is passed to ``build``.
    """

    name: str
    summary: str
    config: type[BaseModel]
    """A pydantic model of the options; set ``extra="forbid"`` so that a misspelt key is refused."""
    build: Callable[[Any], Any]
    """``config -> object``. Import torch and networks in here, not at module level."""
    license: str = "unknown"
    """SPDX identifier of the weights' license (the code's, where there are none). Unknown: the files of ``weights`` say it."""
    weights: Callable[[Any], tuple[WeightFile, ...]] = _no_weights
    """``config -> files`` that must be on disk before a run starts."""


@dataclass(frozen=True, kw_only=True)
class TeacherSpec(Spec):
    """A frozen model to learn from; builds a :class:`DiffusionModel`, or for ``{"output"}`` an :class:`OutputTeacher`."""

    capabilities: frozenset[Capability]
    """``"score"``: answers ``predict(z_t, t, condition)``. ``"output"``: answers ``restore(lq)``."""


@dataclass(frozen=True, kw_only=True)
class StudentSpec(Spec):
    """A model to train; builds a :class:`DiffusionModel` whose ``generate`` carries gradient."""


@dataclass(frozen=True, kw_only=True)
class DegradationSpec(Spec):
    """Builds a :class:`Degradation`: ``(gt, generator) -> lq``, batched and on the device of ``gt``."""


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(Spec):
    """Builds a ``datasets.Dataset`` with a column ``image`` (or ``gt`` and ``lq``), for photographs a plugin knows of."""


@dataclass(frozen=True, kw_only=True)
class MetricSpec(Spec):
    """Builds a :class:`Metric`: ``(restored, gt) -> (B,)``; or a :class:`SetMetric`, of all images together."""
