"""The sentences below and above an evaluation's tables."""

from __future__ import annotations

from collections import defaultdict

from distillkit.evaluation.results import Results

INTERVAL_NOTE = (
    "±: standard error; in brackets: 95 % bootstrap interval over photos. "
    "Whether two methods differ cannot be read from these, for photos differ more than methods do: "
    "compare paired differences."
)
DIFFERENCE_NOTE = (
    "Mean over the images ± standard error, 95 % bootstrap interval over photos: "
    "an interval with 0 in it shows no difference."
)
GAP_NOTE = (
    "The baseline's best PSNR at a distance no greater than the student's counts, so a student "
    "that a baseline dominates has a negative gap. none: no point of the baseline is that close. "
    "linear: linear combinations of two methods' images; linear-stage1: of the fidelity teacher's "
    "and the stage-1 student's; weights: the weights of the student without and with its stage-2 "
    "adapter, interpolated; interpolated: those of two runs' stage-1 students."
)
MAX_FAILURES_SHOWN = 20
FEW_PHOTOS = 10
"""With fewer photos, standard errors are rough and intervals too narrow."""


def uncertainty_note(results: Results) -> str:
    """Explain the standard errors and deviations."""
    images = len(results.items)
    photos = len(set(results.photos))
    note = "1 image" if images == 1 else f"{images} images"
    if photos == 1:
        note += " of one photo: no standard errors, for one photo says nothing of others"
    elif images == photos:
        note += "; standard errors are over images"
    else:
        note += f" of {photos} photos; standard errors are clustered by photo"
    if 1 < photos < FEW_PHOTOS:
        percent = 100 / (2 * (photos - 1)) ** 0.5
        note += f"; with {photos} photos they are rough (to about {percent:.0f} %)"
        note += ", and intervals too narrow"
    note += "."
    if results.seeds > 1:
        note += f" Each number is the mean of {results.seeds} seeds"
        note += ", sd its standard deviation over them."
    return note


def start_note(results: Results) -> str:
    """Name what the student was before training: checks do not subtract how good that was."""
    if results.start is None:
        return ""
    return (
        f"The student started from {results.start}. Checks judge the result, not the gain over it."
    )


def missing_notes(results: Results) -> list[str]:
    """List what has no value and why: whole metrics, then values of single images."""
    notes = [f"{name}: {absent.reason}" for name, absent in results.absent.items()]
    return [*notes, *failure_notes(results)]


def failure_notes(results: Results) -> list[str]:
    """List which values are missing and why, a line for each metric, image and reason."""
    methods_by_failure: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for cell in results.unmeasured:
        methods_by_failure[cell.metric, cell.item, cell.reason].append(cell.method)
    notes = []
    for (metric, item, reason), methods in methods_by_failure.items():
        whose = ", ".join(methods)
        if len(methods) == len(results.methods):
            whose = "all methods"
        image = f" on {item}" if item else ""
        notes.append(f"{metric}{image} ({whose}): {reason}")
    hidden = len(notes) - MAX_FAILURES_SHOWN
    if hidden > 0:
        notes = [*notes[:MAX_FAILURES_SHOWN], f"and {hidden} more in per_image.json"]
    return notes


def color_note(results: Results) -> str:
    """Describe the color fix; empty where there is none."""
    if results.color_fix == "none":
        return ""
    return (
        f"Every image restored here, of students and teachers alike, has the colors of its input "
        f"({results.color_fix}); images from folders are measured as they are."
    )


def cost_note(results: Results) -> str:
    """Explain the cost columns, if seconds were measured."""
    if all(method.seconds is None for method in results.methods):
        return ""
    device = f" on {results.device}" if results.device else ""
    return (
        f"NFE: network evaluations per image. Seconds: median over the images{device}, encoding "
        "and decoding included, loading left out. Parameters: of all networks."
    )
