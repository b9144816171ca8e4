"""How good an image is: against the truth, against a distribution of images, with intervals over patients."""
