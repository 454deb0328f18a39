"""A measurement, or several of them side by side, as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

GIB = 2**30


def as_text(found: Mapping[str, Any]) -> str:
    """One measurement of :func:`distillkit.bench.recipe.bench`."""
    return "\n".join(_lines(found))


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    machine, ceilings, restore = found["machine"], found["ceilings"], found["restore"]
    yield f"{found['recipe']} ({found['sha256'][:8]}), crop {found['crop']}, batch {found['batch']}"
    yield f"{machine['device']}, {machine['name']}, {machine['threads']} threads, torch {machine['packages']['torch']}"
    yield f"ceilings: {ceilings['flops'] / 1e9:,.0f} GFLOP/s in matrix products, {ceilings['copy'] / 1e9:,.0f} GB/s copied"
    yield ""
    yield f"{'':<8}{'ms/step':>10}{'images/s':>10}{'GFLOP':>10}{'of ceiling':>12}{'peak GiB':>10}{'waiting':>9}"
    for name, stage in found["stages"].items():
        share = stage["flops"] / (stage["ms"] / 1000) / ceilings["flops"]
        work = (
            f"{stage['flops'] / 1e9:>10,.1f}{share:>12.0%}"
            if stage["flops"]
            else f"{'-':>10}{'-':>12}"
        )
        yield (
            f"{name:<8}{stage['ms']:>10,.1f}{stage['images_per_s']:>10.2f}{work}"
            f"{stage['peak_memory'] / GIB:>10.2f}{stage['loader_wait']:>9.1%}"
        )
    if restore:
        rate, of = (
            restore["images_per_s"],
            f"{restore['side']} x {restore['side']} px, {restore['megapixels_per_s']:.2f} MP/s",
        )
        yield f"{'restore':<8}{1000 / rate:>10,.1f}{rate:>10.2f}{'':>22}{restore['peak_memory'] / GIB:>10.2f}   {of}"
    if not any(stage["flops"] for stage in found["stages"].values()):
        return
    yield ""
    parts = next(iter(found["stages"].values()))["parts"]
    yield f"{'':<8}" + "".join(f"{part:>11}" for part in parts)
    for name, stage in found["stages"].items():
        yield f"{name:<8}" + "".join(f"{share:>11.1%}" for share in stage["parts"].values())
    yield ""
    for name, stage in found["stages"].items():
        yield f"{name:<8}passes of an image: " + ", ".join(
            f"{network} {n:g}" for network, n in stage["passes"].items()
        )


def as_comparison(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Settings side by side: medians over their measurements, and ratios to the first row.

    On a CPU "faster" compares the seconds computed, which other work on the machine does not stretch; else the time that passes.

    Args:
        rows: by what is set, measurements of the same stages.
    """
    lines = [
        f"{'':<8}{'ms/step':>10}{'CPU ms':>10}{'faster':>8}{'GFLOP':>10}{'peak GiB':>10}{'memory':>8}  setting"
    ]
    first = next(iter(rows.values()))
    counted = "cpu_ms" if first[0]["machine"]["device"] == "cpu" else "ms"

    def figures(row: Sequence[Mapping[str, Any]], stage: str) -> dict[str, float]:
        return {
            key: median(found["stages"][stage][key] for found in row)
            for key in ("ms", "cpu_ms", "flops", "peak_memory")
        }

    for stage in first[0]["stages"]:
        reference = figures(first, stage)
        for setting, row in rows.items():
            own = figures(row, stage)
            faster, share = (
                reference[counted] / own[counted],
                own["peak_memory"] / reference["peak_memory"],
            )
            times = f"{own['ms']:>10,.1f}{own['cpu_ms']:>10,.1f}{faster:>7.2f}x"
            sizes = f"{own['flops'] / 1e9:>10,.1f}{own['peak_memory'] / GIB:>10.2f}{share:>7.2f}x"
            lines.append(f"{stage:<8}{times}{sizes}  {setting}")
    return "\n".join(lines)
