"""Restore pictures with an exported student. Needs numpy, pillow and onnxruntime only."""

from distillkit_runtime.errors import RestoreError
from distillkit_runtime.restorer import Restorer

__all__ = ["RestoreError", "Restorer"]
__version__ = "0.1.0"
