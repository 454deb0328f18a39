"""Videos for distillkit, restored frame by frame."""
