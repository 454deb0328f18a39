"""distillkit comes before spandrel: it makes a torchvision for another torch importable."""

import distillkit  # noqa: F401
