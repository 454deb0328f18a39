"""distillkit comes before spandrel: it makes a torchvision for another torch importable."""

from toy_fixtures import distillkit

__all__ = ["distillkit"]
