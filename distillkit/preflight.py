"""What must be in order before a run does any work."""

from __future__ import annotations

import difflib
from pathlib import Path

from distillkit.errors import DistillkitError, WeightsError
from distillkit.recipe.load import ResolvedRecipe

PROBE_BYTES = 1 << 20


def check_weights(resolved: ResolvedRecipe) -> None:
    """Refuse a recipe whose training needs a weight file that is not on this machine. (A metric without weights is left out.)

    Raises:
        WeightsError: listing every missing file with its size and licence, and the command that fetches them.
    """
    perceptual = resolved.recipe.stage1.weights.perceptual > 0
    needed = [
        c for k, c in resolved.components.items() if not k.startswith("evaluation.") and (k != "stage1.perceptual" or perceptual)
    ]
    missing = {f.name: f for c in needed for f in c.spec.weights(c.config) if f.find() is None}
    if missing:
        lines = [f"  {f.name}  {_size(f.size)}  licence {f.license}" for f in missing.values()]
        advice = f"fetch what is on the Hub with: distillkit fetch {resolved.path}"
        raise WeightsError("\n".join(["weights that are not on this machine:", *lines, advice]))


def check_folder(out: Path, resolved: ResolvedRecipe, resume: bool) -> None:
    """Refuse an output folder that holds another run, or that cannot be written to.

    Raises:
        DistillkitError: it holds a run and ``resume`` is False; that run was made by a recipe that differs from this one; or a
            file of a megabyte cannot be written there.
    """
    written = out / "recipe.toml"
    if written.exists():
        if not resume:
            raise DistillkitError(f"{out} - holds a run already; go on with it by --resume, or choose another folder by --out")
        changes = [x for x in difflib.ndiff(written.read_text().splitlines(), resolved.to_toml().splitlines()) if x[:1] in "+-"]
        if changes:
            head = f"{out} - was made by another recipe than {resolved.path}; --resume needs the same, but:"
            raise DistillkitError("\n".join([head, *changes]))
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".probe"
        try:
            probe.write_bytes(bytes(PROBE_BYTES))
        finally:
            probe.unlink(missing_ok=True)
    except OSError as e:
        raise DistillkitError(f"{out} - cannot be written to ({e.strerror or e}); choose another folder by --out") from e


def _size(size: int | None) -> str:
    return f"{size / 1e6:.0f} MB" if size else "size unknown"
