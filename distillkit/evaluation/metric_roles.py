"""Which metrics a method was trained against, as far as anybody knows."""

from __future__ import annotations

from collections.abc import Collection

from distillkit.evaluation.results import STUDENT, MeasuredMetric


class ReportedTraining(dict[str, str]):
    """Metrics that methods were trained against, as a user reports it: metric -> the methods.

    A run knows every metric that its student was trained against, and calls all others held out.
    Of images in folders only what was reported is known: a metric that is missing here may have
    been trained against or not.
    """


def metric_role(metric: MeasuredMetric, trained_against: Collection[str]) -> str:
    """Describe whether the student was trained against a metric.

    Returns:
        ``trained against``, ``held out``, or nothing for a distortion measure that was not trained
        against, and for a metric of which nobody knows.
    """
    if isinstance(trained_against, ReportedTraining):
        methods = trained_against.get(metric.name)
        return f"{methods} trained against it" if methods else ""
    if metric.name in trained_against:
        return "trained against"
    return "held out" if metric.perceptual else ""


def is_trained_against(metric: str, trained_against: Collection[str]) -> bool:
    """Whether the student was trained against a metric."""
    if isinstance(trained_against, ReportedTraining):
        return STUDENT in trained_against.get(metric, "").split(", ")
    return metric in trained_against


def add_role(name: str, role: str) -> str:
    """Write ``lpips (held out)``, or the name alone."""
    return f"{name} ({role})" if role else name
