"""Checkpoints: directories that appear whole or not at all, with a manifest of hashes."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from distillkit.errors import CheckpointError, DiskError, DistillkitError
from distillkit.files.atomic import atomic_dir
from distillkit.files.download import sha256_of
from distillkit.files.weights import read_state_dict

FORMAT = 2
FIRST_STAGE = "stage1"


@dataclass(frozen=True)
class Checkpoint:
    """One step of one stage, as it was: trained tensors, their moving average, the optimizer."""

    path: Path
    stage: str
    step: int
    """Global step: stage 2 counts on from stage 1."""
    final: bool
    """Whether it ends its stage."""
    stage1: Checkpoint | None = None
    """For one of stage 2: the end of stage 1, on which it rests."""

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
        try:
            with atomic_dir(path, replace=True) as folder:
                _save_tensors(tensors, folder / "trained.safetensors")
                _save_tensors(average, folder / "average.safetensors")
                _save_optimizer(optimizer, folder / "optimizer.pt")
                files = {f.name: sha256_of(f) for f in sorted(folder.iterdir())}
                manifest = {
                    "format": FORMAT,
                    "stage": stage,
                    "step": step,
                    "final": final,
                    "files": files,
                }
                manifest["sha256"] = _digest(manifest)
                (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))
        except DiskError as error:
            raise CheckpointError(
                f"{path} - cannot be written: {error.reason}; earlier checkpoints are intact: free "
                "space, then --resume"
            ) from error
        self._prune(path)
        return path

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that a run can go on from; None where there is none at all.

        Damaged ones, and those of stage 2 where the end of stage 1 is damaged, are named in a warning and passed over.

        Raises:
            CheckpointError: there are checkpoints, and none can be used.
        """
        paths = sorted(self.folder.glob("step-*"), reverse=True)
        for path in paths:
            try:
                return self.read(path)
            except CheckpointError as e:
                warnings.warn(f"{e}; using the one before it", stacklevel=2)
        if paths:
            raise CheckpointError(
                f"{self.folder} - no checkpoint here can be used, {paths[0].name} to {paths[-1].name} are damaged; put one back, "
                "or delete them all to start from the first step"
            )
        return None

    def read(self, path: Path) -> Checkpoint:
        """:func:`read_checkpoint`, and of stage 2 with the end of stage 1."""
        found = read_checkpoint(path)
        if found.stage == FIRST_STAGE:
            return found
        try:
            return replace(found, stage1=self._end_of_stage1())
        except CheckpointError as e:
            raise CheckpointError(f"{path} - cannot be used without the end of stage 1: {e}") from e

    def _end_of_stage1(self) -> Checkpoint:
        for path in sorted(self.folder.glob("step-*"), reverse=True):
            if _ends(path, FIRST_STAGE):
                return read_checkpoint(path)
        raise CheckpointError("it is missing, or its manifest is damaged")

    def _prune(self, newest: Path) -> None:
        """Remove what is older than ``keep`` and ends no stage, and what is newer: damaged, or made before the run went back."""
        paths = sorted(self.folder.glob("step-*"))
        old = [p for p in paths if p <= newest][: -self._keep]
        for path in [p for p in paths if p > newest] + [p for p in old if not _ends(p)]:
            shutil.rmtree(path)


def read_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint directory and check every file, the manifest included.

    Raises:
        CheckpointError: damaged or incomplete. DistillkitError: of another format.
    """
    manifest = _read_manifest(path)
    try:
        changed = [
            name for name, digest in manifest["files"].items() if sha256_of(path / name) != digest
        ]
    except OSError as e:
        raise CheckpointError(f"{path} - damaged checkpoint: {e}") from e
    if changed:
        raise CheckpointError(
            f"{path} - damaged checkpoint: {', '.join(changed)} changed since it was written"
        )
    return Checkpoint(path, manifest["stage"], manifest["step"], manifest["final"])


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        stated, format = manifest.pop("sha256", None), manifest["format"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise CheckpointError(f"{path} - damaged checkpoint: manifest.json: {e}") from e
    if stated != _digest(manifest) and not (stated is None and format == 1):
        raise CheckpointError(
            f"{path} - damaged checkpoint: manifest.json changed since it was written"
        )
    if format != FORMAT:
        what = f"checkpoint format {format}, this version reads {FORMAT}"
        raise DistillkitError(
            f"{path} - {what}; go on with the version of distillkit that wrote it, or start anew by --out"
        )
    return manifest


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _ends(path: Path, stage: str | None = None) -> bool:
    """Whether a checkpoint says that it ends a stage, or that one; its files are not looked at."""
    try:
        manifest = _read_manifest(path)
    except CheckpointError:
        return False
    return manifest["final"] and stage in (None, manifest["stage"])


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(on_cpu, path)


def _save_optimizer(state: dict[str, Any], path: Path) -> None:
    try:
        torch.save(state, path)
    except RuntimeError as error:
        # On a full disk torch's writer raises this.
        raise OSError(str(error)) from error
