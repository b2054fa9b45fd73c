"""A user's own data: one autoencoder a modality, trained apart, and a joint score over their latents."""
