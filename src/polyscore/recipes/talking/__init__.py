"""Talking digits: a video model and a sound model, trained apart, joined by a discriminator (MMDisCo's setting in miniature)."""
