"""Autoencoders of other libraries: one file a family, found through the entry points `medldm.autoencoders`.

A family is a module of three functions:

- `recognise(weights: Weights) -> bool`: whether the weights are laid out as the family's
- `read(weights: Weights) -> Reading`: their configuration, and the weights by the names of our module
- `build(dims: int, config: dict) -> Autoencoder`: the network of a configuration, as a pack holds it
"""
