import torch

from distillkit.testing import contract_tests
from distillkit_example import Grain, Options, Sharpen

test_contract = contract_tests("example")


def test_sharpening_raises_contrast_at_an_edge() -> None:
    edge = torch.cat([torch.full((1, 3, 8, 4), -0.5), torch.full((1, 3, 8, 4), 0.5)], dim=3)
    soft, sharp = (Sharpen(Options(strength=s)).restore(edge) for s in (0.0, 1.0))
    assert soft.shape == sharp.shape == (1, 3, 32, 32)
    assert sharp.max() > soft.max() and sharp.min() < soft.min()


def test_without_strength_there_is_no_grain() -> None:
    gray = torch.full((1, 3, 8, 8), 1 / 255)
    torch.testing.assert_close(
        Grain(Options(strength=0))(gray, torch.Generator()), torch.full((1, 3, 2, 2), 1 / 255)
    )
