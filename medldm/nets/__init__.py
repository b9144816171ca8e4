"""Networks. The only room that imports `monai.networks`."""
