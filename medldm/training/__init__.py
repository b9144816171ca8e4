"""Training: data, three stages (autoencoder, denoiser, head), one loop."""
