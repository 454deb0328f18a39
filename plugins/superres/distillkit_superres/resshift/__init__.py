"""ResShift and SinSR: residual-shifting diffusion for 4x super-resolution.

Both work in the latent space of a VQ f4 autoencoder.
"""
