"""Checkpoints: directories that appear whole or not at all, with a manifest of hashes."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from distillkit.download import sha256_of
from distillkit.errors import CheckpointError
from distillkit.weights import read_state_dict

FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """One step of one stage, as it was: trained tensors, their moving average, the optimiser."""

    path: Path
    stage: str
    step: int
    """Global step: stage 2 counts on from stage 1."""
    final: bool
    """Whether it ends its stage."""

    def tensors(self) -> dict[str, Tensor]:
        return read_state_dict(self.path / "trained.safetensors")

    def average(self) -> dict[str, Tensor]:
        return read_state_dict(self.path / "average.safetensors")

    def optimizer(self) -> dict[str, Any]:
        return read_state_dict(self.path / "optimizer.pt")


class Checkpoints:
    """The ``checkpoints`` folder of a run.

    Args:
        keep: the newest so many are kept, and those that end a stage. writes: whether this process may touch the folder.
    """

    def __init__(self, folder: Path, keep: int, writes: bool = True) -> None:
        self.folder, self._keep = folder, keep
        if not writes:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob(".*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def save(
        self,
        stage: str,
        step: int,
        *,
        final: bool,
        tensors: Mapping[str, Tensor],
        average: Mapping[str, Tensor],
        optimizer: dict[str, Any],
    ) -> Path:
        """Write ``step-<step>`` under a temporary name, sync it to disk, then rename it; older ones beyond ``keep`` go."""
        path = self.folder / f"step-{step:08d}"
        temporary = self.folder / f".{path.name}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary / "trained.safetensors")
            save_file({k: v.detach().cpu().contiguous() for k, v in average.items()}, temporary / "average.safetensors")
            torch.save(optimizer, temporary / "optimizer.pt")
            files = {f.name: sha256_of(f) for f in sorted(temporary.iterdir())}
            manifest = {"format": FORMAT, "stage": stage, "step": step, "final": final, "files": files}
            (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2))
            for f in [*temporary.iterdir(), temporary]:
                _sync(f)
            shutil.rmtree(path, ignore_errors=True)
            temporary.rename(path)
            _sync(self.folder)
        except (OSError, RuntimeError) as e:  # a full disk: torch and safetensors report it in their own ways
            shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(
                f"{path} - could not be written ({e}); earlier checkpoints are intact: free space, then --resume"
            ) from e
        self._prune()
        return path

    def newest(self) -> Checkpoint | None:
        """The newest undamaged checkpoint. Damaged ones are named in a warning and passed over."""
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            try:
                return read_checkpoint(path)
            except CheckpointError as e:
                warnings.warn(f"{e}; using the one before it", stacklevel=2)
        return None

    def final(self, stage: str) -> Checkpoint | None:
        """The checkpoint that ends ``stage``, or None."""
        for path in sorted(self.folder.glob("step-*")):
            checkpoint = read_checkpoint(path)
            if checkpoint.final and checkpoint.stage == stage:
                return checkpoint
        return None

    def _prune(self) -> None:
        paths = sorted(self.folder.glob("step-*"))
        for path in paths[: -self._keep]:
            if not json.loads((path / "manifest.json").read_text())["final"]:
                shutil.rmtree(path)


def read_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint directory and check every file against its manifest.

    Raises:
        CheckpointError: damaged, incomplete, or of a newer format.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        damaged = [name for name, digest in manifest["files"].items() if sha256_of(path / name) != digest]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise CheckpointError(f"{path} - damaged checkpoint: {e}") from e
    if manifest["format"] != FORMAT:
        raise CheckpointError(f"{path} - checkpoint format {manifest['format']}, this version reads {FORMAT}")
    if damaged:
        raise CheckpointError(f"{path} - damaged checkpoint: {', '.join(damaged)} changed since it was written")
    return Checkpoint(path, manifest["stage"], manifest["step"], manifest["final"])


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
