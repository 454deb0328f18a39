"""Train the critics of a stage: after each step of the student, on what it generated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from distillkit.objectives.critic import Critic, CriticSample

MAX_GRAD_NORM = 1.0
WINNING_ACCURACY = 0.99
LEAST_DETAIL = 0.2
MOST_DETAIL = 3.0
"""Mean Laplacian of the student's images over that of the truth, beyond which a run warns."""
BETAS = (0.5, 0.99)
"""A short memory, because what a critic learns moves with the student."""


class CriticTrainer:
    """A critic and its optimizer."""

    def __init__(self, critic: Critic) -> None:
        self.critic = critic
        self._parameters = [p for p in critic.parameters() if p.requires_grad]
        self._optimizer = torch.optim.Adam(self._parameters, lr=critic.learning_rate, betas=BETAS)
        self._samples: list[CriticSample] = []

    def remember(self, sample: CriticSample) -> None:
        """Keep what the student generated in one micro-batch of the present step."""
        self._samples.append(sample)

    def update(
        self, accelerator: Accelerator, make_generator: Callable[[int, int], torch.Generator]
    ) -> dict[str, Tensor]:
        """Make the optimizer steps of one step of the student, and forget its samples.

        All processes call it, and all have the same critic afterwards. An update with a gradient
        that is not finite is left out.

        Args:
            accelerator: The accelerator of the run.
            make_generator: Makes a generator from the number of an update and of a micro-batch.

        Returns:
            Means over the micro-batches, by name: the loss terms of the last update, and what
            the critic's ``diagnose`` measures before the first.
        """
        samples = self._samples
        self._samples = []
        # A step at tradeoff 1, or without ground truth, has nothing for a critic.
        samples = [sample for sample in samples if sample.weight > 0]
        values: dict[str, Tensor] = {}
        for sample in samples:
            _add(values, self.critic.diagnose(sample), len(samples))
        for number in range(self.critic.updates):
            terms: dict[str, Tensor] = {}
            for micro_batch, sample in enumerate(samples):
                losses = self.critic.losses(sample, make_generator(number, micro_batch))
                torch.stack(list(losses.values())).sum().div(len(samples)).backward()
                _add(terms, losses, len(samples))
            self._step(accelerator)
        return values | terms

    def _step(self, accelerator: Accelerator) -> None:
        for parameter in self._parameters:
            # A process without a sample adds nothing.
            gradient = parameter.grad
            if gradient is None:
                gradient = torch.zeros_like(parameter)
            parameter.grad = accelerator.reduce(gradient, "mean")
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, MAX_GRAD_NORM)
        if torch.isfinite(norm):
            self._optimizer.step()
        self._optimizer.zero_grad()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        trained = {
            name: value
            for name, value in self.critic.state_dict().items()
            if name in self._kept_names()
        }
        return {"critic": trained, "optimizer": self._optimizer.state_dict()}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self.critic.load_state_dict(state["critic"], strict=False)
        # The optimizer's settings stay the recipe's, which may have changed since.
        mine = self._optimizer.state_dict()
        mine["state"] = state["optimizer"]["state"]
        self._optimizer.load_state_dict(mine)

    def _kept_names(self) -> set[str]:
        """Names of the trained parameters and of the buffers, such as those of spectral norm."""
        trained = {name for name, p in self.critic.named_parameters() if p.requires_grad}
        return trained | {name for name, _ in self.critic.named_buffers()}


class Failure(NamedTuple):
    """A way in which adversarial training goes wrong."""

    kind: str
    """Names the problem without figures: each kind is warned of once a stage."""
    text: str
    """Figures of this step, and advice."""


def find_failures(values: Mapping[str, float]) -> Iterator[Failure]:
    """Find the ways in which logged values show that adversarial training goes wrong."""
    accuracy = values.get("adversarial/critic/accuracy")
    if accuracy is not None and accuracy > WINNING_ACCURACY:
        yield Failure(
            "discriminator wins",
            f"the discriminator tells all patches apart ({accuracy:.0%}): its gradient teaches "
            "little; lower adversarial.learning_rate, or start from a sharper student",
        )
    detail = values.get("adversarial/critic/detail")
    if detail is None or LEAST_DETAIL <= detail <= MOST_DETAIL:
        return
    amount = "less" if detail < 1 else "more"
    yield Failure(
        f"{amount} detail than the truth",
        f"the student's images have much {amount} detail than the truth ({detail:.2f} of its mean "
        "Laplacian): texture collapses or explodes; lower adversarial.weight",
    )


def _add(means: dict[str, Tensor], terms: dict[str, Tensor], count: int) -> None:
    for name, value in terms.items():
        means[name] = means.get(name, torch.zeros(())).to(value.device) + value.detach() / count
