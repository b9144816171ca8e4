"""Diffusion, apart from any network: the noise process, one network bound to a condition, samplers, random numbers."""
