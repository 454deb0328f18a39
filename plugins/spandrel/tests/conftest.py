"""distillkit is imported before spandrel: it lets a torchvision load that was built for another torch."""

import distillkit  # noqa: F401
