"""What differs between the recipe of a run and the one that it shall go on with, and whether it may.

A change is *safe* if the steps that were made and those that remain are the same with it; it is *incompatible* if the checkpoint's
tensors mean nothing with it; every other one makes another run, a *fork*.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from distillkit.recipe.dump import inline, leaves
from distillkit.recipe.positions import KeyPath, dotted

Verdict = Literal["safe", "fork", "incompatible"]
Values = Mapping[KeyPath, Any]

PROCESSES: KeyPath = ("processes",)
"""Not a key of a recipe, but one of what a run is."""
ACCUMULATE: KeyPath = ("training", "gradient_accumulation_steps")

RULES: dict[str, tuple[Verdict, str]] = {
    "name": ("safe", "a name"),
    "seed": ("fork", "every draw depends on it"),
    "student": ("incompatible", "the checkpoint is a change to that student"),
    "teachers": ("fork", "the losses depend on it"),
    "degradation": ("fork", "the inputs depend on it"),
    "data": ("fork", "the batches depend on it"),
    "data.eval": ("safe", "held-out images, which are not trained on"),
    "data.workers": ("safe", "how batches are loaded, not which"),
    "data.image_cache_mb": ("safe", "how batches are loaded, not which"),
    "data.max_bad_fraction": ("safe", "when a run gives up"),
    "stage1": ("fork", "steps of stage 1 depend on it"),
    "stage1.adapter": ("incompatible", "the checkpoint's tensors are that adapter"),
    "stage2": ("fork", "steps of stage 2 depend on it"),
    "stage2.adapter": ("incompatible", "the checkpoint's tensors are that adapter"),
    "stage2.variant": ("incompatible", "the checkpoint's tensors are of that variant"),
    "stage2.faithful_check_images": ("safe", "a comparison before stage 2"),
    "training": ("fork", "every step depends on it"),
    "training.gradient_checkpointing": ("safe", "memory; the steps are the same but for rounding"),
    "training.recast_weights": ("safe", "memory; the steps are the same"),
    "training.per_term_backward": ("safe", "memory; the steps are the same but for rounding"),
    "training.sharding": ("safe", "memory; the steps are the same but for rounding"),
    "training.channels_last": ("safe", "speed; the steps are the same but for rounding"),
    "training.compile": ("safe", "speed; the steps are the same but for rounding"),
    "training.checkpointing_steps": ("safe", "what is written, and when"),
    "training.checkpoints_total_limit": ("safe", "what is written, and when"),
    "training.validation_steps": ("safe", "what is written, and when"),
    "training.logging_steps": ("safe", "what is written, and when"),
    "training.log_with": ("safe", "what is written, and when"),
    "training.cache_gib": ("safe", "results are the same with a cache"),
    "training.cache_dir": ("safe", "results are the same with a cache"),
    "training.max_nonfinite_steps": ("safe", "when a run gives up"),
    "evaluation": ("safe", "how the student is judged"),
}
"""By the key, or the table above it; the longest one counts. ``steps`` and what is of a stage to come are judged by themselves."""


@dataclass(frozen=True)
class Standing:
    """Where a run stands: after ``made`` steps of ``stage``, which have ``ended`` it or not."""

    stage: str
    made: int
    ended: bool


@dataclass(frozen=True)
class Change:
    """One key whose value differs; None stands for a key that is not there."""

    key: str
    old: Any
    new: Any
    verdict: Verdict
    why: str

    def __str__(self) -> str:
        old, new = ("not set" if value is None else inline(value) for value in (self.old, self.new))
        return f"{self.key}: {old} -> {new}  ({self.why})"


def compare(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    at: Standing | None,
    processes: tuple[int, int] = (1, 1),
) -> list[Change]:
    """Every key whose values differ between two complete recipes, for a run that stands ``at`` a checkpoint; None: it has none.

    ``processes``: how many the run had and has now. A difference is told as one of the key ``processes``.
    """
    before, after = (
        {**dict(leaves(r, ())), PROCESSES: n} for r, n in zip((old, new), processes, strict=True)
    )
    return [
        Change(dotted(path), before.get(path), after.get(path), *_judge(path, before, after, at))
        for path in dict.fromkeys([*before, *after])
        if before.get(path) != after.get(path)
    ]


def lines(changes: Sequence[Change]) -> str:
    """One indented line a change."""
    return "\n".join(f"  {change}" for change in changes)


def _judge(
    path: KeyPath, before: Values, after: Values, at: Standing | None
) -> tuple[Verdict, str]:
    if at is None:
        return "safe", "no step is kept yet"
    if path in (("stage1", "steps"), ("stage2", "steps")):
        decays = any(values.get(("training", "lr_decay_fraction")) for values in (before, after))
        return _judge_steps(str(path[0]), before.get(path, 0), after.get(path, 0), at, decays)
    if path in (PROCESSES, ACCUMULATE):
        return _judge_parts(before, after, at)
    verdict, why = next((RULES[key] for key in _above(path) if key in RULES), RULES["training"])
    if verdict == "incompatible" and path[0] == "stage2" and at.stage == "stage1":
        return RULES["stage2"]
    return verdict, why


def _judge_parts(before: Values, after: Values, at: Standing) -> tuple[Verdict, str]:
    """A step takes a batch for each process and accumulation; who computes which is all the same."""
    if at.ended and (at.stage == "stage2" or not after.get(("stage2", "steps"))):
        return "safe", "every step is made"
    was, now = (values.get(ACCUMULATE, 1) * values[PROCESSES] for values in (before, after))
    if was == now:
        return "safe", f"a step takes {now} batches as before"
    why = f"a step takes a batch for each process and accumulation: {was} before, {now} now"
    rest = was % after[PROCESSES]
    return (
        "fork",
        why
        if rest
        else f"{why}; with training.gradient_accumulation_steps = {was // after[PROCESSES]} it would be the same",
    )


def _judge_steps(stage: str, old: int, new: int, at: Standing, decays: bool) -> tuple[Verdict, str]:
    """More or fewer steps leave those that are the same in both as they are, unless the learning rate falls toward the last."""
    made = at.made if stage == at.stage else 0
    if stage < at.stage:
        return "incompatible", "stage 1 is over, and stage 2 has begun on its end"
    if made and new <= made:
        return "incompatible", f"{made} steps of it are made"
    if decays:
        return "fork", "with training.lr_decay_fraction the learning rate depends on it"
    if made and at.ended:
        return "fork", "the stage has ended"
    if not (old and new):
        return "fork", "stage 2 as a whole"
    return "safe", "the steps are the same, only their number is another"


def _above(path: KeyPath) -> Iterator[str]:
    """A key and the tables that it stands in, the innermost first."""
    return (dotted(path[:n]) for n in range(len(path), 0, -1))
