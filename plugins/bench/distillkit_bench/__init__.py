"""Measure and forecast the speed and memory of a recipe on this machine."""
