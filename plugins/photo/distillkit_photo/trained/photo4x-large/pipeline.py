"""For plain diffusers: DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)."""

from distillkit import DistilledRestorationPipeline  # noqa: F401
