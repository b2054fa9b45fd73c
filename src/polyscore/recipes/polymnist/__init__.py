"""PolyMNIST with the Score-Based Multimodal Autoencoder: autoencoders trained apart, one joint score, guidance, missing data."""
