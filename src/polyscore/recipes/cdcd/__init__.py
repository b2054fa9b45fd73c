"""Discrete contrastive diffusion: class to image on tokens of handwritten digits."""
