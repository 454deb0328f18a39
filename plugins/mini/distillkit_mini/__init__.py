"""Small trained models for distillkit that train and run on a laptop CPU."""
