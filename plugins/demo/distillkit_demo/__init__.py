"""A web page that restores photos with a distillkit student."""
