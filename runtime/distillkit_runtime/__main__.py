"""``python -m distillkit_runtime`` is ``distillkit-restore``."""

from distillkit_runtime.command import main

main()
