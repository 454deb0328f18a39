"""Checkpoints: directories that appear complete or not at all.

A manifest has the hashes of their files.
"""

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
    """The state after one step.

    Trained tensors, their moving average, and the optimizer.
    """

    path: Path
    stage: str
    step: int
    """Global step: stage 2 counts on from stage 1."""
    final: bool
    """Whether it ends its stage."""
    stage1_end: Checkpoint | None = None
    """For a checkpoint of stage 2: the end of stage 1, from which that stage begins."""

    def tensors(self) -> dict[str, Tensor]:
        """Read the trained tensors."""
        return read_state_dict(self.path / "trained.safetensors")

    def average(self) -> dict[str, Tensor]:
        """Read the moving average of the trained tensors."""
        return read_state_dict(self.path / "average.safetensors")

    def optimizer(self) -> dict[str, Any]:
        """Read the state of the optimizer, the loss scale, and the skipped steps in a row."""
        return read_state_dict(self.path / "optimizer.pt")

    def critics(self) -> dict[str, Any]:
        """Read the states of the networks that are trained beside the student, by name."""
        path = self.path / "critics.pt"
        return read_state_dict(path) if path.exists() else {}


class Checkpoints:
    """The ``checkpoints`` folder of a run.

    Args:
        folder: Created if need be.
        keep: How many of the newest are kept, besides those that end a stage.
        writes: Whether this process may change the folder.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        writes: bool = True,
    ) -> None:
        self.folder = folder
        self._keep = keep
        if writes:
            folder.mkdir(parents=True, exist_ok=True)
            # A killed process may have left checkpoints under their temporary names.
            for unfinished in folder.glob(".*"):
                shutil.rmtree(unfinished, ignore_errors=True)

    def save(
        self,
        stage: str,
        step: int,
        *,
        final: bool,
        tensors: Mapping[str, Tensor],
        average: Mapping[str, Tensor],
        optimizer: dict[str, Any],
        critics: dict[str, Any] | None = None,
    ) -> Path:
        """Write the checkpoint ``step-<step>``, and remove old ones.

        Args:
            stage: Name of the stage.
            step: Global step.
            final: Whether it ends its stage.
            tensors: The trained tensors.
            average: Their moving average.
            optimizer: The optimizer's state, the loss scale, and the skipped steps in a row.
            critics: The states of the networks that are trained beside the student, by name.

        Raises:
            CheckpointError: It cannot be written.
        """
        path = self.folder / f"step-{step:08d}"
        try:
            with atomic_dir(path, replace=True) as folder:
                _save_tensors(tensors, folder / "trained.safetensors")
                _save_tensors(average, folder / "average.safetensors")
                _save_state(optimizer, folder / "optimizer.pt")
                if critics:
                    _save_state(critics, folder / "critics.pt")
                manifest = {
                    "format": FORMAT,
                    "stage": stage,
                    "step": step,
                    "final": final,
                    "files": {file.name: sha256_of(file) for file in sorted(folder.iterdir())},
                }
                manifest["sha256"] = _digest(manifest)
                (folder / "manifest.json").write_text(json.dumps(manifest, indent=2))
        except DiskError as error:
            raise CheckpointError(
                f"{path} - cannot be written: {error.reason}; earlier checkpoints are intact: free "
                "space, then --resume"
            ) from error
        self._remove_old(path)
        return path

    def newest(self) -> Checkpoint | None:
        """Open the newest usable checkpoint; None where there is none at all.

        A warning names the damaged ones that are skipped, and those of stage 2 that are unusable
        because the end of stage 1 is damaged.

        Raises:
            CheckpointError: There are checkpoints, and none can be used.
        """
        paths = self._newest_first()
        for path in paths:
            try:
                return self.read(path)
            except CheckpointError as error:
                warnings.warn(f"{error}; using the one before it", stacklevel=2)
        if paths:
            raise CheckpointError(
                f"{self.folder} - no checkpoint here can be used, {paths[0].name} to "
                f"{paths[-1].name} are damaged; put one back, or delete them all to start from the "
                "first step"
            )
        return None

    def read(self, path: Path) -> Checkpoint:
        """Open a checkpoint, and with one of stage 2 the end of stage 1.

        Raises:
            CheckpointError: One of them is damaged or missing.
            DistillkitError: One has another format.
        """
        checkpoint = read_checkpoint(path)
        if checkpoint.stage == FIRST_STAGE:
            return checkpoint
        try:
            return replace(checkpoint, stage1_end=self._read_end_of_stage1())
        except CheckpointError as error:
            raise CheckpointError(
                f"{path} - cannot be used without the end of stage 1: {error}"
            ) from error

    def _read_end_of_stage1(self) -> Checkpoint:
        for path in self._newest_first():
            if _ends_stage(path, FIRST_STAGE):
                return read_checkpoint(path)
        raise CheckpointError("it is missing, or its manifest is damaged")

    def _remove_old(self, newest: Path) -> None:
        """Remove later checkpoints, and old ones that end no stage."""
        paths = self._newest_first()
        position = paths.index(newest)
        # Later ones are damaged, or of steps that the run has gone back from.
        for path in paths[:position]:
            shutil.rmtree(path)
        for path in paths[position + self._keep :]:
            if not _ends_stage(path):
                shutil.rmtree(path)

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), reverse=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint directory and verify all its files.

    Raises:
        CheckpointError: It is damaged or incomplete.
        DistillkitError: It has another format.
    """
    manifest = _read_manifest(path)
    changed = []
    try:
        for name, stated in manifest["files"].items():
            if sha256_of(path / name) != stated:
                changed.append(name)
    except OSError as error:
        raise CheckpointError(f"{path} - damaged checkpoint: {error}") from error
    if changed:
        raise CheckpointError(
            f"{path} - damaged checkpoint: {', '.join(changed)} changed since it was written"
        )
    return Checkpoint(path, manifest["stage"], manifest["step"], manifest["final"])


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        stated = manifest.pop("sha256", None)
        format = manifest["format"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} - damaged checkpoint: manifest.json: {error}") from error
    # Manifests of format 1 had no hash: they are refused below, for their format.
    is_format_1 = stated is None and format == 1
    if stated != _digest(manifest) and not is_format_1:
        raise CheckpointError(
            f"{path} - damaged checkpoint: manifest.json changed since it was written"
        )
    if format != FORMAT:
        raise DistillkitError(
            f"{path} - checkpoint format {format}, this version reads {FORMAT}; continue with the "
            "version of distillkit that wrote it, or start from the first step with --out"
        )
    return manifest


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _ends_stage(path: Path, stage: str | None = None) -> bool:
    """Check whether a checkpoint ends a stage, or a certain stage.

    Its other files are not read.
    """
    try:
        manifest = _read_manifest(path)
    except CheckpointError:
        return False
    return manifest["final"] and stage in (None, manifest["stage"])


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    on_cpu = {}
    for name, tensor in tensors.items():
        on_cpu[name] = tensor.detach().cpu().contiguous()
    save_file(on_cpu, path)


def _save_state(state: dict[str, Any], path: Path) -> None:
    try:
        torch.save(state, path)
    except RuntimeError as error:
        # On a full disk torch's writer raises this.
        raise OSError(str(error)) from error
