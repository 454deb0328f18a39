"""Checks of a student's tradeoff sweep: numbers that say whether stage 2 did its work."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from distillkit.evaluation.results import Gap, Results
from distillkit.evaluation.statistics import Estimate

SLACK_FIDELITY = 0.01
"""dB by which a PSNR may fall from one tradeoff to the next."""
SLACK_PERCEPTUAL = 0.001
"""Distance by which a perceptual metric may fall from one tradeoff to the next."""
SPAN = 0.5
"""dB between tradeoff 0 and tradeoff 1."""
GAP = 0.3
"""dB above the linear combination of the teachers, at equal perceptual distance."""


@dataclass(frozen=True)
class Check:
    """A statement, the figure that decides it, and the verdict."""

    statement: str
    value: float | None
    """None where the figure does not exist: no combination reaches the student's distance."""
    sem: float | None
    """Paired standard error of ``value``, clustered by photo."""
    passed: bool
    needed: float
    """The check passes if ``value`` is at least this."""
    unit: str
    detail: str = ""

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        text = f"{verdict}  {self.statement}: {self.figure}"
        return f"{text} ({self.detail})" if self.detail else text

    @property
    def figure(self) -> str:
        """The value with its standard error and, where the check failed, by how much."""
        if self.value is None:
            return "not measurable"
        digits = 3 if self.unit == "dB" else 4
        unit = f" {self.unit}" if self.unit else ""
        figure = f"{self.value:+.{digits}f}"
        if self.sem is not None:
            figure += f" ± {self.sem:.{digits}f}"
        figure += unit
        if not self.passed:
            figure += f", missed by {self.needed - self.value:.{digits}f}{unit}"
        return figure


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
    step, beyond the slack; tradeoff 0 and tradeoff 1 differ by more than the paired standard
    error; the first PSNR spans :data:`SPAN` dB; and at equal perceptual distance, at every
    tradeoff where they can be compared, the student is :data:`GAP` dB above the linear
    combination of the teachers. The last is checked in every perceptual metric.

    Args:
        results: an evaluation; without a sweep there is nothing to check.
        trained: names of the metrics that the student was trained against.
    """
    if len(results.sweep()) < 2:
        return []
    directions = list(_directions(results, trained))
    checks = [_check_steps(results, direction) for direction in directions]
    checks += [_check_ends(results, direction) for direction in directions]
    checks.append(_check_span(results))
    if results.teachers is not None:
        checks += [_check_gap(results, m.name, m.name in trained) for m in results.perceptual]
    return checks


def _directions(results: Results, trained: Collection[str]) -> Iterator[_Direction]:
    """Yield the metrics that have to change with the tradeoff, every PSNR first."""
    for name in results.psnrs:
        yield _Direction(name, 1, "dB", SLACK_FIDELITY)
    for metric in results.perceptual:
        if metric.name in trained:
            sign = -1 if metric.higher_is_better else 1
            yield _Direction(metric.name, sign, "", SLACK_PERCEPTUAL)


def _check_steps(results: Results, direction: _Direction) -> Check:
    """Check that a metric never moves the wrong way from one tradeoff to the next."""
    steps = {}
    for before, after in itertools.pairwise(results.sweep()):
        change = _signed_change(results, before.label, after.label, direction)
        steps[f"from tradeoff {before.tradeoff:g} to {after.tradeoff:g}"] = change
    smallest = min(steps, key=lambda step: steps[step].mean)
    change = steps[smallest]
    wrong = "falls" if direction.sign > 0 else "rises"
    return Check(
        statement=f"{direction.metric} never {wrong} as tradeoff goes from 0 to 1 "
        f"(slack {direction.slack:g}); its smallest step",
        value=change.mean,
        sem=change.sem,
        passed=change.mean >= -direction.slack,
        needed=-direction.slack,
        unit=direction.unit,
        detail=smallest,
    )


def _check_ends(results: Results, direction: _Direction) -> Check:
    """Check that tradeoff 0 and tradeoff 1 can be told apart."""
    statement = (
        f"tradeoff 0 and tradeoff 1 differ in {direction.metric} by more than the paired "
        "standard error"
    )
    change = _end_to_end(results, direction)
    if change.sem is None:
        # Without a standard error nothing can be told apart, so the check fails.
        needed = float("inf")
        detail = "one photo gives no standard error"
    else:
        needed = change.sem
        detail = ""
    return Check(
        statement=statement,
        value=change.mean,
        sem=change.sem,
        passed=change.mean > needed,
        needed=needed,
        unit=direction.unit,
        detail=detail,
    )


def _check_span(results: Results) -> Check:
    """Check how far the first PSNR moves from tradeoff 0 to tradeoff 1."""
    fidelity = results.fidelity
    change = _end_to_end(results, _Direction(fidelity, 1, "dB", SLACK_FIDELITY))
    return Check(
        statement=f"the tradeoff spans at least {SPAN:g} dB of {fidelity}",
        value=change.mean,
        sem=change.sem,
        passed=change.mean >= SPAN,
        needed=SPAN,
        unit="dB",
    )


def _check_gap(results: Results, metric: str, trained: bool) -> Check:
    """Check how far the student is above the linear combination at equal distance."""
    role = "trained against" if trained else "held out"
    statement = (
        f"at equal {metric} ({role}) the student is at least {GAP:g} dB above the linear "
        "combination, at its worst tradeoff"
    )
    gaps = results.at_equal(metric)
    detail = _describe_gaps(gaps)
    differences = [gap.difference for gap in gaps if gap.difference is not None]
    if not differences:
        return Check(statement, None, None, False, GAP, "dB", detail)
    worst = min(differences, key=lambda difference: difference.mean)
    return Check(
        statement=statement,
        value=worst.mean,
        sem=worst.sem,
        passed=worst.mean >= GAP,
        needed=GAP,
        unit="dB",
        detail=detail,
    )


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
        parts.append(f"no combination has the student's distance at {', '.join(unreachable)}")
    return "; ".join(parts)


def _end_to_end(results: Results, direction: _Direction) -> Estimate:
    sweep = results.sweep()
    return _signed_change(results, sweep[0].label, sweep[-1].label, direction)


def _signed_change(results: Results, before: str, after: str, direction: _Direction) -> Estimate:
    """Return the change from one label to another, positive in the wanted direction."""
    change = results.paired(after, before, direction.metric)
    return Estimate(direction.sign * change.mean, change.sem)
