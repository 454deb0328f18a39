"""Show a measurement, or several of them side by side, as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

GIB = 2**30


def format_measurement(measurement: Mapping[str, Any]) -> str:
    """Show one measurement of :func:`distillkit_bench.recipe.measure_recipe`."""
    stages = measurement["stages"]
    lines = [*_describe_setup(measurement), "", *_tabulate_models(measurement)]
    lines += ["", *_tabulate_speed(measurement)]
    # Without a breakdown there are no FLOPs, phases and NFE.
    if any(stage["flops"] for stage in stages.values()):
        lines += ["", *_tabulate_phases(stages), "", *_list_nfe(stages)]
    return "\n".join(lines)


def _describe_setup(measurement: Mapping[str, Any]) -> Iterator[str]:
    machine = measurement["machine"]
    recipe = f"{measurement['recipe']} ({measurement['sha256'][:8]})"
    yield f"{recipe}, crop {measurement['crop']}, batch {measurement['batch']}"
    yield f"{machine['device']}, torch {machine['packages']['torch']}"
    gigaflops = measurement["ceilings"]["flops"] / 1e9
    gigabytes = measurement["ceilings"]["copy"] / 1e9
    ceilings = f"{gigaflops:,.0f} GFLOP/s in matrix products, {gigabytes:,.0f} GB/s copied"
    by_core = ", by a core" if machine["on_cpu"] else ""
    yield f"ceilings: {ceilings}{by_core}"


def _tabulate_models(measurement: Mapping[str, Any]) -> Iterator[str]:
    crop = measurement["crop"]
    size = f"{crop} x {crop}"
    yield f"{'':<12}{'parameters':>12}{'GiB':>8}{'GFLOP':>11}   to restore {size} px"
    for name, model in measurement["models"].items():
        operations = f"{'-':>11}"
        if model["flops"] is not None:
            operations = f"{model['flops'] / 1e9:>11,.1f}"
        parameters = f"{model['parameters'] / 1e6:>10,.2f} M"
        yield f"{name:<12}{parameters}{model['bytes'] / GIB:>8.3f}{operations}"


def _tabulate_speed(measurement: Mapping[str, Any]) -> Iterator[str]:
    times = f"{'':<8}{'ms/step':>10}{'images/s':>10}"
    yield f"{times}{'GFLOP':>10}{'of ceiling':>12}{'peak GiB':>10}{'waiting':>9}"
    clock = _steady_clock(measurement)
    for name, stage in measurement["stages"].items():
        operations = f"{'-':>10}{'-':>12}"
        if stage["flops"]:
            rate = stage["flops"] / (stage[clock] / 1000)
            share = rate / measurement["ceilings"]["flops"]
            operations = f"{stage['flops'] / 1e9:>10,.1f}{share:>12.0%}"
        times = f"{name:<8}{stage['ms']:>10,.1f}{stage['images_per_s']:>10.2f}"
        memory = f"{stage['peak_memory'] / GIB:>10.2f}"
        yield f"{times}{operations}{memory}{stage['loader_wait']:>9.1%}"
    restore = measurement["restore"]
    if restore:
        images_per_s = restore["images_per_s"]
        times = f"{'restore':<8}{1000 / images_per_s:>10,.1f}{images_per_s:>10.2f}"
        memory = f"{'':>22}{restore['peak_memory'] / GIB:>10.2f}"
        size = f"{restore['side']} x {restore['side']} px"
        yield f"{times}{memory}   {size}, {restore['megapixels_per_s']:.2f} MP/s"


def _tabulate_phases(stages: Mapping[str, Any]) -> Iterator[str]:
    first = next(iter(stages.values()))
    yield f"{'':<8}" + "".join(f"{phase:>11}" for phase in first["phases"])
    for name, stage in stages.items():
        yield f"{name:<8}" + "".join(f"{share:>11.1%}" for share in stage["phases"].values())


def _list_nfe(stages: Mapping[str, Any]) -> Iterator[str]:
    for name, stage in stages.items():
        counts = ", ".join(f"{network} {nfe:g}" for network, nfe in stage["nfe"].items())
        yield f"{name:<8}NFE: {counts}"


def format_comparison(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Show settings side by side: medians, and ratios to the first row.

    On a CPU "faster" compares CPU seconds, which other work on the machine does not stretch; on a
    GPU it compares wall time.

    Args:
        rows: By setting, measurements of the same stages.
    """
    times = f"{'':<8}{'ms/step':>10}{'CPU ms':>10}{'faster':>8}"
    lines = [f"{times}{'GFLOP':>10}{'peak GiB':>10}{'memory':>8}  setting"]
    reference_row = next(iter(rows.values()))
    clock = _steady_clock(reference_row[0])
    for stage in reference_row[0]["stages"]:
        reference = _medians(reference_row, stage)
        for setting, row in rows.items():
            figures = _medians(row, stage)
            faster = reference[clock] / figures[clock]
            share = figures["peak_memory"] / reference["peak_memory"]
            times = f"{figures['ms']:>10,.1f}{figures['cpu_ms']:>10,.1f}{faster:>7.2f}x"
            memory = f"{figures['peak_memory'] / GIB:>10.2f}{share:>7.2f}x"
            lines.append(f"{stage:<8}{times}{figures['flops'] / 1e9:>10,.1f}{memory}  {setting}")
    return "\n".join(lines)


def _steady_clock(measurement: Mapping[str, Any]) -> str:
    """Name the milliseconds of a step which other work on the machine does not stretch."""
    return "cpu_ms" if measurement["machine"]["on_cpu"] else "ms"


def _medians(row: Sequence[Mapping[str, Any]], stage: str) -> dict[str, float]:
    """Take the medians of a stage over the measurements of a row."""
    medians = {}
    for key in ("ms", "cpu_ms", "flops", "peak_memory"):
        medians[key] = median(measurement["stages"][stage][key] for measurement in row)
    return medians
