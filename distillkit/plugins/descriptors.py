"""Descriptors: what a plugin offers.

They are light: each names its code by texts, ``"module:name"``, and the modules are imported only
when the thing is used. So the help of the command line can list the commands of every plugin.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from distillkit.errors import DistillkitError, PluginError
from distillkit.plugins.stdout import divert_stdout

if TYPE_CHECKING:
    from distillkit.plugins.options import Options

Capability = Literal["score", "output"]
Kind = Literal["teachers", "students", "degradations", "datasets", "metrics", "masks"]

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
REFERENCE = r"[\w.]+:[\w.]+"
"""What names code: ``"module:name"``."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One named thing of a plugin.

    A recipe names it by ``use = "<plugin>/<name>"`` (or ``"<name>"`` where that is unique). The
    other keys of that table are the options, and what they are is passed to ``build``.
    """

    kind: ClassVar[str] = "thing"
    reserved_options: ClassVar[frozenset[str]] = frozenset({"use", "weight_files"})
    """Names that no option may have: the recipe's own keys, and the method of its options."""

    name: str
    summary: str
    build: str
    """``"module:function"`` or ``"module:Class"``, which is called with the options."""
    options: str = "distillkit:Options"
    """``"module:Class"``, a subclass of :class:`Options`, which also names the weight files."""
    license: str = "unknown"
    """SPDX identifier of the weights' license, or of the code's where there are no weights.

    Where it is unknown, the license of the options' ``weight_files`` counts.
    """
    exempt: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Checks of the contract that do not apply, each with the reason.

    A check is named as in ``distillkit.contract``, without ``check_``: ``{"metric_order": "it
    judges an image by itself"}``. The check of the interface always applies.
    """
    plugin: str = ""
    """The name of the plugin that offers it, filled in when the plugin is loaded."""
    distribution: str = ""
    """Name and version of the distribution that brings the plugin, filled in likewise."""

    def __post_init__(self) -> None:
        self._check_text("name", NAME, "letters, digits, '.', '_' and '-'")
        self._check_text("summary", ".*", "a line of text")
        self._check_text("options", REFERENCE, '"module:Class"')
        self._check_text("build", REFERENCE, '"module:function"')
        if not (isinstance(self.exempt, Mapping) and all(self.exempt.values())):
            raise PluginError(f"{self}: its exempt is {self.exempt!r}, not a reason for each check")

    def __str__(self) -> str:
        return f'{self.kind} "{self.full_name}"'

    @property
    def full_name(self) -> str:
        """``"<plugin>/<name>"``."""
        if not self.plugin:
            return self.name
        return f"{self.plugin}/{self.name}"

    def is_named(self, use: str) -> bool:
        """Whether ``use`` is the full name or the short one."""
        return use in (self.full_name, self.name)

    @property
    def config(self) -> type[Options]:
        """The class that ``options`` names.

        Raises:
            PluginError: It cannot be imported, is no subclass of :class:`Options`, has an option
                of a reserved name, or changes what the engine sets for all options.
        """
        from distillkit.plugins.options import Options, find_problem

        found = self._import("options", self.options)
        if not (isinstance(found, type) and issubclass(found, Options)):
            raise PluginError(f'{self}: its options = "{self.options}" is no subclass of Options')
        problem = find_problem(found, self.reserved_options)
        if problem:
            raise PluginError(f'{self}: its options = "{self.options}" {problem}')
        return found

    def create(self, options: Options) -> Any:
        """Build the thing itself, a new one at each call.

        Raises:
            PluginError: ``build`` cannot be imported.
        """
        builder = self._import("build", self.build)
        with divert_stdout():
            return builder(options)

    def _check_text(self, field: str, pattern: str, expected: str) -> None:
        value = getattr(self, field)
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise PluginError(f"{self}: its {field} is {value!r}, not {expected}")

    def _import(self, field: str, reference: str) -> Any:
        try:
            with divert_stdout():
                return pkgutil.resolve_name(reference)
        except DistillkitError:
            raise
        except (Exception, SystemExit) as e:
            reason = f"cannot be imported: {type(e).__name__}: {e}"
            raise PluginError(f'{self}: its {field} = "{reference}" {reason}') from e


@dataclass(frozen=True, kw_only=True)
class TeacherSpec(Spec):
    """A frozen model to learn from.

    It builds a :class:`DiffusionModel`, or an :class:`OutputTeacher` for ``{"output"}`` alone.
    """

    kind = "teacher"

    capabilities: frozenset[Capability]
    """``"score"``: answers ``predict(z_t, t, condition)``. ``"output"``: answers ``restore``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_capabilities(self, self.capabilities)


@dataclass(frozen=True, kw_only=True)
class StudentSpec(Spec):
    """A model to train.

    It builds a :class:`DiffusionModel`, or a :class:`RestorationModel` for ``{"output"}`` alone,
    whose ``generate`` carries gradient.
    """

    kind = "student"

    capabilities: frozenset[Capability] = frozenset({"score", "output"})
    """As of a teacher. A student without a score learns from images, not from its own denoiser."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_capabilities(self, self.capabilities)
        if "output" not in self.capabilities:
            raise PluginError(f'{self}: its capabilities lack "output", which every student has')


def _check_capabilities(spec: Spec, capabilities: frozenset[Capability]) -> None:
    known = set(get_args(Capability))
    if not capabilities or not set(capabilities) <= known:
        listed = list(capabilities)
        raise PluginError(f'{spec}: its capabilities are {listed}, not "score", "output" or both')


@dataclass(frozen=True, kw_only=True)
class DegradationSpec(Spec):
    """Makes the inputs of clean images.

    It builds a :class:`Degradation`: ``(gt, generator) -> lq``, batched, on the device of ``gt``.
    """

    kind = "degradation"


@dataclass(frozen=True, kw_only=True)
class DatasetSpec(Spec):
    """Photographs that a plugin knows of.

    It builds a ``datasets.Dataset`` with a column ``image``, or with ``gt`` and ``lq``.
    """

    kind = "dataset"
    reserved_options = Spec.reserved_options | {
        "hub",
        "imagefolder",
        "parquet",
        "image_column",
        "lq_column",
        "lq_folder",
        "zoom_out",
        "caption_column",
        "ground_truth",
        "name",
        "weight",
    }
    """A source's own keys are reserved as well, except those that only sources of the Hub have."""


@dataclass(frozen=True, kw_only=True)
class MetricSpec(Spec):
    """A measure of restored images.

    It builds a :class:`Metric`, ``(restored, gt) -> (B,)``, or a :class:`SetMetric` of all images
    together.
    """

    kind = "metric"


@dataclass(frozen=True, kw_only=True)
class MaskSpec(Spec):
    """Finds something in images, such as faces: ``distillkit restore --faithful`` names it.

    It builds a callable ``image -> mask``: (h, w, 3), float32 in [0, 1], to (h, w) in [0, 1]. No
    recipe sets its options: it is built with their defaults.
    """

    kind = "mask"


SPEC_TYPES: dict[Kind, type[Spec]] = {
    "teachers": TeacherSpec,
    "students": StudentSpec,
    "degradations": DegradationSpec,
    "datasets": DatasetSpec,
    "metrics": MetricSpec,
    "masks": MaskSpec,
}
