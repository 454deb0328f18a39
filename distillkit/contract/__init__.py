"""What the engine relies on in what plugins build, and the checks of it."""
