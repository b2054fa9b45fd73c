"""polyscore: generative models trained apart, composed into one multimodal generator."""

__version__ = "0.1.0"
