"""Diffusion: noise levels are a tensor, samplers are functions, the network is one call.

Convention: variance exploding, ``x_t = x_0 + sigma n`` (Karras et al. 2022), latents of deviation 1.
"""
