"""Faces, their masks and their attributes with the Score-Based Multimodal Autoencoder."""
