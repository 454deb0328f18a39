"""Where the time of a training step goes, and which networks it asks how often."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from distillkit.bench.device import synchronize
from distillkit.diffusion.model import DiffusionModel
from distillkit.training.loop import Stage
from distillkit.training.models import RunModels

Part = Literal["data", "student", "teachers", "codecs", "loss", "backward", "optimizer"]
PARTS: tuple[Part, ...] = get_args(Part)
"""Parts of a step: waiting for a batch and degrading it; the student's denoiser; the teachers'; encoding and decoding, whoever
asks; what is left of the forward pass; the backward pass with whatever it recomputes; all that follows it."""


class PartClock:
    """Seconds by part, each instant counted once: for the innermost part that is going on.

    The device is waited for at every change, so the parts add up to more than an unwatched step takes: read their shares.
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[Part, float] = dict.fromkeys(PARTS, 0.0)
        self.passes: dict[str, float] = {}
        """Images that went through each network, by its name, in forward passes."""
        self._device, self._mark = device, time.perf_counter()
        self._stack: list[Part] = ["data"]

    def _turn(self) -> None:
        synchronize(self._device)
        now = time.perf_counter()
        self.seconds[self._stack[-1]] += now - self._mark
        self._mark = now

    def between(self, part: Part) -> None:
        """What goes on while nothing else does."""
        self._turn()
        self._stack[0] = part

    @contextmanager
    def inside(self, part: Part) -> Iterator[None]:
        """``part`` goes on in the block; the backward pass is not divided further."""
        self._turn()
        self._stack.append("backward" if "backward" in self._stack else part)
        try:
            yield
        finally:
            self._turn()
            self._stack.pop()

    def count(self, name: str, images: int) -> None:
        if "backward" not in self._stack:
            self.passes[name] = self.passes.get(name, 0) + images


@contextmanager
def watched(stage: Stage, accelerator: Accelerator, clock: PartClock) -> Iterator[None]:
    """``clock`` follows the steps of ``stage`` inside the block."""
    models, module = stage.module.models, stage.module
    with ExitStack() as undo:

        def wrap(owner: Any, name: str, part: Part, network: str | None = None) -> None:
            if hasattr(owner, name):
                undo.enter_context(_wrapped(owner, name, clock, part, network))

        wrap(models, "prepare", "data")
        wrap(module, "forward", "loss")
        wrap(accelerator, "backward", "backward")
        for model in (models.student, *models.teachers.values()):
            for name in ("condition", "forward", "predict", "generate", "restore"):
                wrap(model, name, "student" if model is models.student else "teachers")
        for codec in _unique(
            m.codec for m in (models.student, *models.teachers.values()) if hasattr(m, "codec")
        ):
            wrap(codec, "encode", "codecs", "encoder")
            wrap(codec, "decode", "codecs", "decoder")
        undo.callback(register_module_forward_pre_hook(_counter(clock, models)).remove)
        undo.callback(module.register_forward_hook(lambda *_: clock.between("optimizer")).remove)
        yield


def networks(models: RunModels) -> dict[str, nn.Module]:
    """Each denoiser once, under the names of all who use it: ``"student + realness"``."""
    names: dict[int, list[str]] = {}
    found: dict[int, nn.Module] = {}
    for name, model in (("student", models.student), *models.teachers.items()):
        network = getattr(model, "network", model)
        if isinstance(network, nn.Module):
            names.setdefault(id(network), []).append(name)
            found[id(network)] = network
    return {" + ".join(names[k]): network for k, network in found.items()}


@contextmanager
def _wrapped(
    owner: Any, name: str, clock: PartClock, part: Part, network: str | None
) -> Iterator[None]:
    """The bound method ``name`` of ``owner`` counts as ``part``; shadowed in the instance, so that its class is left alone."""
    former, plain = vars(owner).get(name), getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        if network is not None:
            clock.count(network, _images([*args, *kwargs.values()]))
        with clock.inside(part):
            return plain(*args, **kwargs)

    vars(owner)[name] = timed
    try:
        yield
    finally:
        if former is None:
            del vars(owner)[name]
        else:
            vars(owner)[name] = former


def _counter(clock: PartClock, models: RunModels) -> Callable[[nn.Module, Any], None]:
    """Counts calls of the models's denoisers; those of a model that is none of the models's are ``"other"``."""
    names = {id(network): name for name, network in networks(models).items()}

    def count(module: nn.Module, args: Any) -> None:
        if id(module) in names:
            clock.count(names[id(module)], _images(args))
        elif isinstance(module, DiffusionModel) and id(module.network) not in names:
            clock.count("other", _images(args))

    return count


def _images(args: Iterable[Any]) -> int:
    return next((len(x) for x in args if isinstance(x, Tensor) and x.dim()), 0)


def _unique(things: Iterable[Any]) -> list[Any]:
    return list({id(x): x for x in things}.values())
