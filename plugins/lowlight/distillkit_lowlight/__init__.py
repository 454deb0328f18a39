"""Low-light enhancement for distillkit: the teachers GSAD and Reti-Diff, LOL data, a degradation, and the field's protocols."""
