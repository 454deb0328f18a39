"""What a run is asked to show, checked with numbers. A claim that is missed says so and by how much."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass

from distillkit.evaluation.results import Difference, Results


@dataclass(frozen=True)
class Check:
    """A statement, the figure that decides it, and whether it holds."""

    statement: str
    value: float | None
    """None where the figure does not exist, for instance because no combination reaches the student's distance."""
    sem: float | None
    """Paired standard error of ``value``, clustered by photo."""
    passed: bool
    needed: float
    """The claim holds if ``value`` is at least this."""
    unit: str
    detail: str = ""

    def __str__(self) -> str:
        verdict = "holds " if self.passed else "MISSED"
        return f"{verdict}  {self.statement}: {self.figure}" + (
            f" ({self.detail})" if self.detail else ""
        )

    @property
    def figure(self) -> str:
        """The value with its standard error and, where the claim is missed, by how much."""
        if self.value is None:
            return "not measurable"
        sem = "" if self.sem is None else f" ± {self.sem:.{self._digits}f}"
        missed = (
            ""
            if self.passed
            else f", missed by {self.needed - self.value:.{self._digits}f}{self._suffix}"
        )
        return f"{self.value:+.{self._digits}f}{sem}{self._suffix}{missed}"

    @property
    def _digits(self) -> int:
        return 3 if self.unit == "dB" else 4

    @property
    def _suffix(self) -> str:
        return f" {self.unit}" if self.unit else ""


def claims(
    results: Results,
    trained: Collection[str],
    *,
    slack_fidelity: float = 0.01,
    slack_perceptual: float = 0.001,
    span: float = 0.5,
    gap: float = 0.3,
) -> list[Check]:
    """Check the knob and the front of a student's tradeoff sweep.

    From tradeoff 0 to 1 neither any PSNR nor the perceptual distances trained against fall at any step (beyond the slack); their
    ends differ by more than the paired standard error; the first PSNR spans ``span`` dB; and at equal perceptual distance, at every
    tradeoff where they can be compared, the student is ``gap`` dB above the linear combination of the teachers. The last is
    checked in every perceptual metric.

    Args:
        trained: names of the metrics that the student was trained against.
    """
    if len(results.sweep()) < 2:
        return []
    perceptual = results.perceptual
    out = [_monotone(results, name, 1, slack_fidelity, "dB") for name in results.psnrs]
    toward = {m.name: -1 if m.higher_is_better else 1 for m in perceptual if m.name in trained}
    out += [_monotone(results, name, sign, slack_perceptual, "") for name, sign in toward.items()]
    out += [_ends(results, name, 1, "dB") for name in results.psnrs]
    out += [_ends(results, name, sign, "") for name, sign in toward.items()]
    out.append(_span(results, results.fidelity, span))
    if results.teachers is not None:
        out += [_front(results, m.name, gap, m.name in trained) for m in perceptual]
    return out


def _steps(results: Results, metric: str, sign: int) -> list[tuple[str, Difference]]:
    sweep = results.sweep()
    return [
        (
            f"{a.tradeoff:g} to {b.tradeoff:g}",
            _signed(results.paired(b.label, a.label, metric), sign),
        )
        for a, b in itertools.pairwise(sweep)
    ]


def _signed(difference: Difference, sign: int) -> Difference:
    interval = difference.interval and (
        min(ends := [sign * x for x in difference.interval]),
        max(ends),
    )
    return Difference(sign * difference.mean, difference.sem, interval)


def _monotone(results: Results, metric: str, sign: int, slack: float, unit: str) -> Check:
    where, step = min(_steps(results, metric, sign), key=lambda s: s[1].mean)
    direction = "falls" if sign > 0 else "rises"
    return Check(
        statement=f"{metric} never {direction} as tradeoff goes from 0 to 1 (slack {slack:g}); its smallest step",
        value=step.mean,
        sem=step.sem,
        passed=step.mean >= -slack,
        needed=-slack,
        unit=unit,
        detail=f"from tradeoff {where}",
    )


def _end_to_end(results: Results, metric: str, sign: int) -> Difference:
    sweep = results.sweep()
    return _signed(results.paired(sweep[-1].label, sweep[0].label, metric), sign)


def _ends(results: Results, metric: str, sign: int, unit: str) -> Check:
    ends = _end_to_end(results, metric, sign)
    return Check(
        statement=f"the ends of the knob differ in {metric} by more than the paired standard error",
        value=ends.mean,
        sem=ends.sem,
        passed=ends.sem is not None and ends.mean > ends.sem,
        needed=ends.sem if ends.sem is not None else float("inf"),
        unit=unit,
        detail="" if ends.sem is not None else "one photo gives no standard error",
    )


def _span(results: Results, metric: str, span: float) -> Check:
    ends = _end_to_end(results, metric, 1)
    statement = f"the knob spans at least {span:g} dB of {metric}"
    return Check(statement, ends.mean, ends.sem, ends.mean >= span, span, "dB")


def _front(results: Results, metric: str, gap: float, trained: bool) -> Check:
    role = "trained against" if trained else "held out"
    statement = f"at equal {metric} ({role}) the student is at least {gap:g} dB above the linear combination, at its worst tradeoff"
    gaps = results.at_equal(metric)
    found = [(g.tradeoff, g.difference) for g in gaps if g.difference is not None]
    outside = [f"{g.tradeoff:g}" for g in gaps if g.difference is None]
    beyond = f"no combination has the student's distance at {', '.join(outside)}" if outside else ""
    if not found:
        return Check(statement, None, None, False, gap, "dB", beyond)
    worst = min((d for _, d in found), key=lambda d: d.mean)
    listed = "by tradeoff " + ", ".join(f"{t:g}: {d.mean:+.2f}" for t, d in found)
    detail = f"{listed}; {beyond}" if beyond else listed
    return Check(statement, worst.mean, worst.sem, worst.mean >= gap, gap, "dB", detail)
