"""Low-light enhancement for distillkit.

The teachers GSAD and Reti-Diff, a student, LOL data, a degradation, and the protocols of the field.
"""
