"""Compare a run's recipe with the one that is to continue the run.

A change is *safe* if the finished steps and the remaining ones are the same with it. It is
*incompatible* if the checkpoint's tensors mean nothing with it. Any other change makes another run,
a *fork*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from distillkit.recipe.dump import format_value, leaves
from distillkit.recipe.key_paths import KeyPath, dotted

Compatibility = Literal["safe", "fork", "incompatible"]
Judgment = tuple[Compatibility, str]
"""With the reason."""
Values = Mapping[KeyPath, Any]

PROCESSES: KeyPath = ("processes",)
"""Key of the number of processes: not in a recipe, but judged like the keys of one."""
ACCUMULATION: KeyPath = ("training", "gradient_accumulation_steps")
STEPS: tuple[KeyPath, ...] = (("stage1", "steps"), ("stage2", "steps"))

RULES: dict[str, tuple[Compatibility, str]] = {
    "name": ("safe", "a name"),
    "seed": ("fork", "every draw depends on it"),
    "student": ("incompatible", "the checkpoint is a change to that student"),
    "teachers": ("fork", "the losses depend on it"),
    "degradation": ("fork", "the inputs depend on it"),
    "data": ("fork", "the batches depend on it"),
    "data.eval": ("safe", "held-out images, which are not trained on"),
    "data.num_workers": ("safe", "how batches are loaded, not which"),
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
"""By a key or the table above it; the innermost one counts. Other rules judge ``steps``, the number
of processes, and keys of a stage that has not begun."""


@dataclass(frozen=True)
class RunProgress:
    """How far a run has come."""

    stage: str
    steps_done: int
    """In that stage."""
    stage_ended: bool


@dataclass(frozen=True)
class Change:
    """One key whose value differs; None stands for a missing key."""

    key: str
    old: Any
    new: Any
    compatibility: Compatibility
    reason: str

    def __str__(self) -> str:
        old = _written(self.old)
        new = _written(self.new)
        return f"{self.key}: {old} -> {new}  ({self.reason})"


def compare_recipes(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    progress: RunProgress | None,
    processes: tuple[int, int] = (1, 1),
) -> list[Change]:
    """List and judge every key whose values differ.

    Args:
        old: The complete recipe of the run.
        new: The complete recipe that is to continue it.
        progress: How far the run has come; None: it has no checkpoint.
        processes: How many the run had and has now; a difference is listed under ``processes``.
    """
    before = {**dict(leaves(old)), PROCESSES: processes[0]}
    after = {**dict(leaves(new)), PROCESSES: processes[1]}
    changes = []
    for path in dict.fromkeys([*before, *after]):
        old_value = before.get(path)
        new_value = after.get(path)
        if old_value != new_value:
            compatibility, reason = _judge(path, before, after, progress)
            changes.append(Change(dotted(path), old_value, new_value, compatibility, reason))
    return changes


def format_changes(changes: Sequence[Change]) -> str:
    """Write one indented line for each change."""
    return "\n".join(f"  {change}" for change in changes)


def _written(value: Any) -> str:
    if value is None:
        return "not set"
    return format_value(value)


def _judge(
    path: KeyPath,
    before: Values,
    after: Values,
    progress: RunProgress | None,
) -> Judgment:
    if progress is None:
        return "safe", "there is no checkpoint yet"
    if path in STEPS:
        return _judge_steps(path, before, after, progress)
    if path in (PROCESSES, ACCUMULATION):
        return _judge_step_size(before, after, progress)
    rule = _find_rule(path)
    # The checkpoint holds no tensor of a stage that has not begun.
    has_not_begun = path[0] == "stage2" and progress.stage == "stage1"
    if rule[0] == "incompatible" and has_not_begun:
        return RULES["stage2"]
    return rule


def _judge_step_size(
    before: Values,
    after: Values,
    progress: RunProgress,
) -> Judgment:
    """Judge the number of micro-batches in a step.

    It does not matter which process has which of them.
    """
    # The run will only be evaluated again.
    is_last_stage = progress.stage == "stage2" or not after.get(("stage2", "steps"))
    if progress.stage_ended and is_last_stage:
        return "safe", "all steps are done"
    old_size = before.get(ACCUMULATION, 1) * before[PROCESSES]
    new_size = after.get(ACCUMULATION, 1) * after[PROCESSES]
    if old_size == new_size:
        return "safe", f"a step still takes {new_size} batches"
    reason = (
        f"a step takes a batch for each process and accumulation: {old_size} before, {new_size} now"
    )
    accumulation, remainder = divmod(old_size, after[PROCESSES])
    if remainder == 0:
        key = dotted(ACCUMULATION)
        reason += f"; with {key} = {accumulation} it would be the same"
    return "fork", reason


def _judge_steps(
    path: KeyPath,
    before: Values,
    after: Values,
    progress: RunProgress,
) -> Judgment:
    """Judge a stage's number of steps.

    Steps that both recipes have are the same, unless the learning rate falls towards the last one.
    """
    stage = str(path[0])
    if stage < progress.stage:
        return "incompatible", "stage 1 is over, and stage 2 has begun from its end"
    old = before.get(path, 0)
    new = after.get(path, 0)
    is_current = stage == progress.stage
    if is_current and new <= progress.steps_done:
        return "incompatible", f"{progress.steps_done} steps of it are done"
    decay: KeyPath = ("training", "lr_decay_fraction")
    if before.get(decay) or after.get(decay):
        return "fork", f"with {dotted(decay)} the learning rate depends on it"
    if is_current and progress.stage_ended:
        return "fork", "the stage has ended"
    if not (old and new):
        return "fork", "it adds or removes stage 2"
    return "safe", "the steps are the same, only their number differs"


def _find_rule(path: KeyPath) -> Judgment:
    """Look for the rule of a key, or of the innermost table around it."""
    for length in range(len(path), 0, -1):
        rule = RULES.get(dotted(path[:length]))
        if rule is not None:
            return rule
    # A fork is right for a key that no rule names, whatever it does.
    return RULES["training"]
