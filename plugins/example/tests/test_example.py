import torch

from distillkit import ModelInput
from distillkit.testing import contract_tests
from distillkit_example.models import Grain, Sharpen
from distillkit_example.options import GrainOptions, SharpenOptions

test_contract = contract_tests("example")


def sharpen(image: torch.Tensor, strength: float) -> torch.Tensor:
    return Sharpen(SharpenOptions(strength=strength)).restore(ModelInput(image))


def test_sharpening_raises_contrast_at_an_edge() -> None:
    dark, bright = torch.full((1, 3, 8, 4), -0.5), torch.full((1, 3, 8, 4), 0.5)
    edge = torch.cat([dark, bright], dim=3)
    soft, sharp = sharpen(edge, 0.0), sharpen(edge, 1.0)
    assert soft.shape == sharp.shape == (1, 3, 32, 32)
    assert sharp.max() > soft.max()
    assert sharp.min() < soft.min()


def test_without_strength_there_is_no_grain() -> None:
    gray = torch.full((1, 3, 8, 8), 1 / 255)
    degraded = Grain(GrainOptions(strength=0))(gray, torch.Generator())
    torch.testing.assert_close(degraded, torch.full((1, 3, 2, 2), 1 / 255))
