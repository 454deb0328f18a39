"""Write the stages' LoRA in files that plain peft and diffusers read."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models import UNet2DConditionModel
from peft import LoraConfig, PeftModel
from peft.helpers import rescale_adapter_scale
from safetensors.torch import load_file, save_file
from torch import Tensor

from distillkit.diffusion.model import RestorationModel
from distillkit.export.source import About
from distillkit.inference.student import Student, build_base_model

Value = TypeVar("Value")

STAGES = ("stage1", "stage2")
DIFFUSERS_WEIGHTS = "pytorch_lora_weights.safetensors"
"""The file that ``load_lora_adapter`` and ``load_lora_weights`` of diffusers look for."""

LoadStudent = Callable[[float], Student]
"""Makes the student at a tradeoff from the base model and the adapter files."""
BuildModel = Callable[[], RestorationModel]
"""Builds the base model."""


@dataclass(frozen=True)
class Lora:
    """The low-rank adapters that a stage trained."""

    rank: int
    alpha: float
    tensors: Mapping[str, Tensor]
    """By the adapted layer's name and ``.lora_A.weight`` or ``.lora_B.weight``."""

    @property
    def layers(self) -> list[str]:
        """The names of the adapted layers."""
        return sorted({name.partition(".lora_")[0] for name in self.tensors})


def write_adapters(student: Path, out: Path, about: About) -> dict[str, LoadStudent]:
    """Write the LoRA of each stage that trained one.

    peft's files are ``adapter_config.json`` and ``adapter_model.safetensors``. A network that is
    one of diffusers' also gets ``pytorch_lora_weights.safetensors``, with rank and alpha in its
    metadata. The weights at tradeoff t are
    ``W_base + (alpha_1 / r_1) B_1 A_1 + t (alpha_2 / r_2) B_2 A_2``: both adapters on, the second
    at weight t.

    Args:
        student: The student's folder.
        out: The folder of the adapters, which get ``stage1`` and ``stage2`` in it.
        about: The student's ``distillkit.json``.

    Returns:
        By library, how it makes the student from the files, without distillkit's own adapters;
        empty if the files alone do not make the student.
    """
    build = partial(build_base_model, about, student)
    model = build()
    name = _diffusers_name(model.network)
    for stage in STAGES:
        if stage == "stage1" and model.stage1_network is not model.network:
            # It trained a decoder, too, which peft and diffusers would look for in the network.
            continue
        lora = _read_lora(student / f"{stage}.safetensors", about[stage])
        if lora is None:
            continue
        _save_for_peft(lora, out / stage)
        if name is not None:
            _save_for_diffusers(lora, out / stage, name)
    if not _adapters_suffice(out, about):
        return {}
    loaders: dict[str, LoadStudent] = {"peft adapters": partial(_load_by_peft, out, build)}
    if name is not None:
        loaders["diffusers adapters"] = partial(_load_by_diffusers, out, build, name)
    return loaders


def _diffusers_name(network: object) -> str | None:
    """Return what diffusers calls the network in a pipeline.

    None if the network is not one of diffusers'.
    """
    if isinstance(network, UNet2DConditionModel):
        return "unet"
    if isinstance(network, PeftAdapterMixin):
        return "transformer"
    return None


def _read_lora(file: Path, stage: Mapping[str, Any] | None) -> Lora | None:
    """Read what a stage trained; None if it trained no LoRA."""
    if stage is None or not file.is_file():
        return None
    options = stage["adapter"]
    if options["kind"] != "lora":
        return None
    saved = load_file(file)
    # "oftsr" trains no adapter, whatever its options say.
    if not any(".lora_" in name for name in saved):
        return None
    tensors = {}
    for name, tensor in saved.items():
        # distillkit's adapters have a name of their own in peft; its files leave names out.
        tensors[name.replace(".distillkit.", ".")] = tensor
    rank = options["rank"]
    alpha = options["alpha"] or rank
    return Lora(rank, alpha, tensors)


def _save_for_peft(lora: Lora, folder: Path) -> None:
    alpha: Any = lora.alpha  # peft declares an integer, and computes with any number
    config = LoraConfig(r=lora.rank, lora_alpha=alpha, target_modules=lora.layers)
    config.save_pretrained(str(folder))
    tensors = _prefixed("base_model.model", lora.tensors)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _save_for_diffusers(lora: Lora, folder: Path, network: str) -> None:
    config = {
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "target_modules": lora.layers,
        "rank_pattern": {},
        "alpha_pattern": {},
    }
    metadata = {
        "format": "pt",
        "lora_adapter_metadata": json.dumps(_prefixed(network, config)),
    }
    tensors = _prefixed(network, lora.tensors)
    save_file(tensors, folder / DIFFUSERS_WEIGHTS, metadata=metadata)


def _prefixed(prefix: str, entries: Mapping[str, Value]) -> dict[str, Value]:
    return {f"{prefix}.{name}": value for name, value in entries.items()}


def _adapters_suffice(folder: Path, about: About) -> bool:
    """Whether the base model and the adapter files in ``folder`` make the whole student."""
    if not (folder / "stage1").is_dir():
        return False
    stage2 = about["stage2"]
    if stage2 is None:
        return True
    return (folder / "stage2").is_dir() and stage2["variant"] == "adapter_scaling"


def _load_by_peft(adapters: Path, build: BuildModel, tradeoff: float) -> Student:
    """Merge stage 1, and stage 2 at the tradeoff."""
    model = build()
    for folder, scale in _scaled_stages(adapters, tradeoff).items():
        adapted = PeftModel.from_pretrained(model.network, str(folder))
        with rescale_adapter_scale(adapted, scale):
            model.network = adapted.merge_and_unload()
    return Student(model.requires_grad_(False).eval(), None)


def _load_by_diffusers(adapters: Path, build: BuildModel, name: str, tradeoff: float) -> Student:
    """Turn both stages on, the second at the weight of the tradeoff."""
    model = build()
    network: Any = model.network
    scales = _scaled_stages(adapters, tradeoff)
    with warnings.catch_warnings():
        # Two adapters, as intended.
        warnings.filterwarnings("ignore", "Already found a `peft_config`")
        for folder in scales:
            network.load_lora_adapter(
                str(folder),
                prefix=name,
                adapter_name=folder.name,
                weight_name=DIFFUSERS_WEIGHTS,
            )
    names = [folder.name for folder in scales]
    network.set_adapters(names, list(scales.values()))
    return Student(model.requires_grad_(False).eval(), None)


def _scaled_stages(adapters: Path, tradeoff: float) -> dict[Path, float]:
    """Find the folders of the adapters, and the scale of each at a tradeoff."""
    scales = {adapters / "stage1": 1.0, adapters / "stage2": tradeoff}
    return {folder: scale for folder, scale in scales.items() if folder.is_dir()}
