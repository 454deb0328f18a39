"""Checks of a student's tradeoff sweep: numbers that say whether stage 2 did its work.

A check passes where the 95 % interval of its estimate does, not where its mean does. Below
:data:`MIN_PHOTOS` photographs that interval means little, and there is no verdict.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from distillkit.evaluation.metric_roles import add_role, is_trained_against, metric_role
from distillkit.evaluation.results import Gap, MeasuredMetric, Results
from distillkit.evaluation.statistics import Estimate

SLACK_FIDELITY = 0.01
"""dB by which a PSNR may fall from one tradeoff to the next."""
SLACK_PERCEPTUAL = 0.001
"""Distance by which a perceptual metric may fall from one tradeoff to the next."""
SPAN = 0.5
"""dB of PSNR by which tradeoff 1 must exceed tradeoff 0."""
GAP = 0.3
"""dB of PSNR by which the student must exceed the linear combinations of the teachers at no greater
perceptual distance."""
MIN_PHOTOS = 20
"""With fewer photographs no check is passed or failed."""
Verdict = Literal["passed", "FAILED", "refused"]


@dataclass(frozen=True)
class Check:
    """A statement, the estimate that decides it, and the verdict."""

    statement: str
    estimate: Estimate | None
    """None where it does not exist: no combination is as close as the student."""
    needed: float
    """The check passes if the whole interval of ``estimate`` is above this."""
    unit: str
    detail: str = ""

    def __str__(self) -> str:
        text = f"{self.verdict}  {self.statement}: {self.estimate_text}"
        return f"{text} ({self.detail})" if self.detail else text

    @property
    def verdict(self) -> Verdict:
        """``refused`` where too little was measured to say one or the other."""
        if self._why_refused() or self._low is None:
            return "refused"
        if self._low > self.needed:
            return "passed"
        return "FAILED"

    @property
    def estimate_text(self) -> str:
        """The estimate with error and interval, what was needed, and why there is no verdict."""
        if self.estimate is None or not math.isfinite(self.estimate.mean):
            return f"no verdict: {self._why_refused()}"
        digits = 3 if self.unit == "dB" else 4
        unit = f" {self.unit}" if self.unit else ""
        text = f"{self.estimate.mean:+.{digits}f}"
        if self.estimate.sem is not None:
            text += f" ± {self.estimate.sem:.{digits}f}"
        text += unit
        if self.estimate.interval is not None:
            low, high = self.estimate.interval
            text += f", 95 % interval {low:+.{digits}f} to {high:+.{digits}f}"
        if self.verdict == "FAILED":
            text += f", not all above {self.needed:+g}{unit}"
        if self.verdict == "refused":
            text += f"; no verdict: {self._why_refused()}"
        return text

    @property
    def _low(self) -> float | None:
        if self.estimate is None or self.estimate.interval is None:
            return None
        return self.estimate.interval[0]

    def _why_refused(self) -> str:
        """Return why there is no verdict; empty where there is one."""
        if self.estimate is None:
            return "no combination is as close as the student"
        if not math.isfinite(self.estimate.mean):
            return "not measured"
        if self.estimate.photos < MIN_PHOTOS:
            count = self.estimate.photos
            photos = "1 photograph" if count == 1 else f"{count} photographs"
            return f"{photos}, at least {MIN_PHOTOS} are needed"
        return ""


@dataclass(frozen=True)
class _Direction:
    """A metric, and the sign it changes with from tradeoff 0 to tradeoff 1."""

    metric: str
    sign: int
    """1: it rises; -1: it falls."""
    unit: str
    slack: float


def check_sweep(results: Results, trained: Collection[str]) -> list[Check]:
    """Check the tradeoff and the front of a student's sweep.

    From tradeoff 0 to 1 neither any PSNR nor the perceptual distances trained against fall at any
    step, beyond the slack; tradeoff 0 and tradeoff 1 differ; the first PSNR spans :data:`SPAN` dB;
    and at every tradeoff where they can be compared the student is :data:`GAP` dB above the best
    linear combination of the teachers at no greater perceptual distance. The last is checked in
    every perceptual metric.

    Args:
        results: An evaluation; without a sweep there is nothing to check.
        trained: Names of the metrics that the student was trained against.
    """
    if len(results.sweep()) < 2:
        return []
    directions = list(_directions(results, trained))
    checks = [_check_steps(results, direction) for direction in directions]
    checks += [_check_ends(results, direction) for direction in directions]
    checks.append(_check_span(results))
    if results.teachers is not None:
        for metric in results.perceptual:
            checks.append(_check_gap(results, metric, metric_role(metric, trained)))
    return checks


def _directions(results: Results, trained: Collection[str]) -> Iterator[_Direction]:
    """Yield the metrics that have to change with the tradeoff, every PSNR first."""
    for name in results.psnrs:
        yield _Direction(name, 1, "dB", SLACK_FIDELITY)
    for metric in results.perceptual:
        if is_trained_against(metric.name, trained):
            sign = -1 if metric.higher_is_better else 1
            yield _Direction(metric.name, sign, "", SLACK_PERCEPTUAL)


def _check_steps(results: Results, direction: _Direction) -> Check:
    """Check that a metric never moves the wrong way from one tradeoff to the next."""
    steps = {}
    for before, after in itertools.pairwise(results.sweep()):
        change = _signed_change(results, before.label, after.label, direction)
        steps[f"from tradeoff {before.tradeoff:g} to {after.tradeoff:g}"] = change
    worst = min(steps, key=lambda step: _lower_bound(steps[step]))
    wrong = "falls" if direction.sign > 0 else "rises"
    return Check(
        statement=f"{direction.metric} never {wrong} as tradeoff goes from 0 to 1 "
        f"(slack {direction.slack:g}); its worst step",
        estimate=steps[worst],
        needed=-direction.slack,
        unit=direction.unit,
        detail=worst,
    )


def _check_ends(results: Results, direction: _Direction) -> Check:
    """Check that a metric differs between tradeoff 0 and tradeoff 1."""
    return Check(
        statement=f"tradeoff 0 and tradeoff 1 differ in {direction.metric}",
        estimate=_end_to_end(results, direction),
        needed=0.0,
        unit=direction.unit,
    )


def _check_span(results: Results) -> Check:
    """Check how far the first PSNR moves from tradeoff 0 to tradeoff 1."""
    fidelity = results.fidelity
    return Check(
        statement=f"the tradeoff spans more than {SPAN:g} dB of {fidelity}",
        estimate=_end_to_end(results, _Direction(fidelity, 1, "dB", SLACK_FIDELITY)),
        needed=SPAN,
        unit="dB",
    )


def _check_gap(results: Results, metric: MeasuredMetric, role: str) -> Check:
    """Check how far the student is above the best combination at no greater distance."""
    gaps = results.at_equal(metric.name)
    return Check(
        statement=f"at equal {add_role(metric.name, role)} the student is more than {GAP:g} dB "
        "above the best linear combination, at its worst tradeoff",
        estimate=_worst(gap.difference for gap in gaps if gap.difference is not None),
        needed=GAP,
        unit="dB",
        detail=_describe_gaps(gaps),
    )


def _worst(estimates: Iterable[Estimate]) -> Estimate | None:
    """Choose the estimate whose interval begins lowest."""
    return min(estimates, key=_lower_bound, default=None)


def _lower_bound(estimate: Estimate) -> float:
    if estimate.interval is None:
        return estimate.mean
    return estimate.interval[0]


def _describe_gaps(gaps: list[Gap]) -> str:
    """List the gap at every tradeoff, and the tradeoffs that have none."""
    measured = []
    unreachable = []
    for gap in gaps:
        if gap.difference is None:
            unreachable.append(f"{gap.tradeoff:g}")
        else:
            measured.append(f"{gap.tradeoff:g}: {gap.difference.mean:+.2f}")
    parts = []
    if measured:
        parts.append("by tradeoff " + ", ".join(measured))
    if unreachable:
        parts.append(f"no combination is as close as the student at {', '.join(unreachable)}")
    return "; ".join(parts)


def _end_to_end(results: Results, direction: _Direction) -> Estimate:
    sweep = results.sweep()
    return _signed_change(results, sweep[0].label, sweep[-1].label, direction)


def _signed_change(results: Results, before: str, after: str, direction: _Direction) -> Estimate:
    """Return the change from one label to another, positive in the wanted direction."""
    if direction.sign > 0:
        return results.paired(after, before, direction.metric)
    return results.paired(before, after, direction.metric)
