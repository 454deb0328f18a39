"""The stages' LoRA in files that peft and diffusers read by themselves, and the student that these files make of the base model."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models import UNet2DConditionModel
from peft import LoraConfig, PeftModel
from peft.helpers import rescale_adapter_scale
from safetensors.torch import load_file, save_file

from distillkit.inference.student import Student, base_model

STAGES = ("stage1", "stage2")
LORA_WEIGHTS = "pytorch_lora_weights.safetensors"
"""The file that ``load_lora_adapter`` and ``load_lora_weights`` of diffusers look for."""

AtTradeoff = Callable[[float], Student]
"""The student at a tradeoff, made of the files."""


def write_adapters(student: Path, out: Path, about: Mapping[str, Any]) -> dict[str, AtTradeoff]:
    """Write the LoRA of each stage that trained one, from the ``student`` folder to ``out/stage1`` and ``out/stage2``.

    Each is written as peft saves it (``adapter_config.json``, ``adapter_model.safetensors``), and for a network that is one of
    diffusers' also as diffusers saves it (``pytorch_lora_weights.safetensors``, rank and alpha in its metadata). The weights at
    tradeoff t are ``W_base + (alpha_1 / r_1) B_1 A_1 + t (alpha_2 / r_2) B_2 A_2``: both adapters on, the second at weight t.

    Returns:
        by the name of the library, the student that the files make of the base model without distillkit's adapters; none where the
        files alone do not make the student.
    """
    network = base_model(about).network
    prefix = _prefix(network)
    for stage in STAGES:
        file, options = student / f"{stage}.safetensors", (about[stage] or {}).get("adapter")
        if (
            not file.is_file()
            or options is None
            or options["kind"] != "lora"
            or not any(".lora_" in k for k in load_file(file))
        ):
            continue
        tensors = {
            name.replace(".distillkit.", "."): tensor for name, tensor in load_file(file).items()
        }
        names, rank = sorted({name.partition(".lora_")[0] for name in tensors}), options["rank"]
        alpha, folder = options["alpha"] or rank, out / stage
        LoraConfig(r=rank, lora_alpha=alpha, target_modules=names).save_pretrained(str(folder))
        saved = {f"base_model.model.{name}": tensor for name, tensor in tensors.items()}
        save_file(saved, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        if prefix is not None:
            kept = {
                "r": rank,
                "lora_alpha": alpha,
                "target_modules": names,
                "rank_pattern": {},
                "alpha_pattern": {},
            }
            config = {f"{prefix}.{k}": v for k, v in kept.items()}
            metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(config)}
            save_file(
                {f"{prefix}.{name}": t for name, t in tensors.items()},
                folder / LORA_WEIGHTS,
                metadata=metadata,
            )
    written = [(out / stage).is_dir() for stage in STAGES]
    complete = written[0] and (
        about["stage2"] is None or (written[1] and about["stage2"]["variant"] == "adapter_scaling")
    )
    if not complete:
        return {}
    found: dict[str, AtTradeoff] = {"peft adapters": lambda t: _by_peft(out, about, t)}
    if prefix is not None:
        found["diffusers adapters"] = lambda t: _by_diffusers(out, about, t)
    return found


def _prefix(network: object) -> str | None:
    """What diffusers calls the network in a pipeline; None for one that is not diffusers'."""
    if not isinstance(network, PeftAdapterMixin):
        return None
    return "unet" if isinstance(network, UNet2DConditionModel) else "transformer"


def _by_peft(adapters: Path, about: Mapping[str, Any], tradeoff: float) -> Student:
    """Stage 1 merged, stage 2 merged at the tradeoff."""
    model = base_model(about)
    for stage, scale in zip(STAGES, (1.0, tradeoff), strict=True):
        if (adapters / stage).is_dir():
            adapted = PeftModel.from_pretrained(model.network, str(adapters / stage))
            with rescale_adapter_scale(adapted, scale):
                model.network = adapted.merge_and_unload()
    return Student(model.requires_grad_(False).eval(), None)


def _by_diffusers(adapters: Path, about: Mapping[str, Any], tradeoff: float) -> Student:
    """Both stages on, the second at the weight of the tradeoff."""
    model = base_model(about)
    network: Any = model.network
    stages = [stage for stage in STAGES if (adapters / stage).is_dir()]
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Already found a `peft_config`"
        )  # two adapters, as intended
        for stage in stages:
            folder = str(adapters / stage)
            network.load_lora_adapter(
                folder, prefix=_prefix(network), adapter_name=stage, weight_name=LORA_WEIGHTS
            )
    network.set_adapters(stages, [1.0, tradeoff][: len(stages)])
    return Student(model.requires_grad_(False).eval(), None)
