"""Codecs: data <-> latent. Each is trained alone and knows nothing of sampling or of other modalities."""

from __future__ import annotations

from polyscore.codecs.base import Chain, Codec, Identity
from polyscore.codecs.letters import Letters
from polyscore.codecs.mel import LogMel
from polyscore.codecs.vae import RAE, VAE

__all__ = ["RAE", "VAE", "Chain", "Codec", "Identity", "Letters", "LogMel"]
