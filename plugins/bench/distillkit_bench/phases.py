"""Find where the time of a training step goes, and how often each network is evaluated."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from distillkit import DiffusionModel, PreparedStage
from distillkit_bench.device import synchronize

Phase = Literal["data", "student", "teachers", "codecs", "loss", "backward", "optimizer"]
PHASES: tuple[Phase, ...] = get_args(Phase)
"""Phases of a step.

``data`` waits for a batch and degrades it; ``student`` and ``teachers`` are their denoisers;
``codecs`` encode and decode, for whatever model; ``loss`` is the rest of the forward pass;
``backward`` includes gradient checkpointing; ``optimizer`` is all that follows.
"""
MODEL_METHODS = ("condition", "forward", "predict", "generate", "restore")
"""Methods of a model that count as its phase."""


class PhaseClock:
    """Seconds by phase; each instant counts once, for the innermost phase.

    The clock waits for the device at every change, so the phases add up to more than the step takes
    otherwise: read their shares.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[Phase, float] = dict.fromkeys(PHASES, 0.0)
        self.nfe: dict[str, float] = {}
        """Images that went through each network, by its name, in forward passes."""
        self._device = device
        self._last_change = time.perf_counter()
        self._stack: list[Phase] = ["data"]

    def _charge(self) -> None:
        """Add the time since the last change to the innermost phase."""
        synchronize(self._device)
        now = time.perf_counter()
        self.seconds[self._stack[-1]] += now - self._last_change
        self._last_change = now

    def set_outermost(self, phase: Phase) -> None:
        """Set the phase that counts while no other does."""
        self._charge()
        self._stack[0] = phase

    @contextmanager
    def inside(self, phase: Phase) -> Iterator[None]:
        """Count the block as ``phase``; a backward pass is not divided further."""
        self._charge()
        if "backward" in self._stack:
            phase = "backward"
        self._stack.append(phase)
        try:
            yield
        finally:
            self._charge()
            self._stack.pop()

    def count(self, network: str, images: int) -> None:
        """Count images that go through a network, unless a backward pass repeats it."""
        if "backward" not in self._stack:
            self.nfe[network] = self.nfe.get(network, 0) + images


@contextmanager
def timed_phases(prepared: PreparedStage, clock: PhaseClock) -> Iterator[None]:
    """Let ``clock`` follow the steps of a stage inside the block."""
    module = prepared.stage.module
    models = prepared.models
    with ExitStack() as stack:

        def time_method(owner: Any, method: str, phase: Phase, network: str | None = None) -> None:
            if hasattr(owner, method):
                stack.enter_context(_timed_method(owner, method, clock, phase, network))

        time_method(models, "prepare", "data")
        time_method(module, "forward", "loss")
        time_method(prepared.accelerator, "backward", "backward")
        for method in MODEL_METHODS:
            time_method(models.student, method, "student")
            for teacher in models.teachers.values():
                time_method(teacher, method, "teachers")
        for codec in _codecs(prepared):
            time_method(codec, "encode", "codecs", "encoder")
            time_method(codec, "decode", "codecs", "decoder")
        evaluations = register_module_forward_pre_hook(_nfe_hook(clock, prepared))
        stack.callback(evaluations.remove)
        loss = module.register_forward_hook(lambda *_: clock.set_outermost("optimizer"))
        stack.callback(loss.remove)
        yield


def _name_networks(prepared: PreparedStage) -> dict[int, str]:
    """Name the denoisers after all models that use them: ``"student + realness"``.

    Returns:
        Names by ``id`` of the network.
    """
    models = prepared.models
    owners: dict[int, list[str]] = {}
    for owner, model in (("student", models.student), *models.teachers.items()):
        network = getattr(model, "network", model)
        if isinstance(network, nn.Module):
            owners.setdefault(id(network), []).append(owner)
    return {network: " + ".join(names) for network, names in owners.items()}


@contextmanager
def _timed_method(
    owner: Any, method: str, clock: PhaseClock, phase: Phase, network: str | None
) -> Iterator[None]:
    """Count a bound method as ``phase`` inside the block.

    The instance shadows it, so that its class is left alone.

    Args:
        owner: The instance.
        method: The method's name.
        clock: The clock that counts it.
        phase: What it counts as.
        network: The name under which its images are counted, too.
    """
    shadowed = vars(owner).get(method)
    plain = getattr(owner, method)

    def timed(*args: Any, **kwargs: Any) -> Any:
        if network is not None:
            clock.count(network, _batch_size([*args, *kwargs.values()]))
        with clock.inside(phase):
            return plain(*args, **kwargs)

    vars(owner)[method] = timed
    try:
        yield
    finally:
        if shadowed is None:
            del vars(owner)[method]
        else:
            vars(owner)[method] = shadowed


def _nfe_hook(clock: PhaseClock, prepared: PreparedStage) -> Callable[[nn.Module, Any], None]:
    """Make a hook that counts evaluations of denoisers.

    Those of a model that is none of the run's count as ``"other"``.
    """
    names = _name_networks(prepared)

    def count(module: nn.Module, args: Any) -> None:
        if id(module) in names:
            clock.count(names[id(module)], _batch_size(args))
        elif isinstance(module, DiffusionModel) and id(module.network) not in names:
            clock.count("other", _batch_size(args))

    return count


def _batch_size(args: Iterable[Any]) -> int:
    """Read the batch size from the first tensor among the arguments."""
    for arg in args:
        if isinstance(arg, Tensor) and arg.dim():
            return len(arg)
    return 0


def _codecs(prepared: PreparedStage) -> Iterable[Any]:
    """List the codecs of a stage's models; one that several share, once."""
    models = prepared.models
    codecs = {}
    for model in (models.student, *models.teachers.values()):
        codec = getattr(model, "codec", None)
        if codec is not None:
            codecs[id(codec)] = codec
    return codecs.values()
