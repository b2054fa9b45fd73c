"""Codecs: data <-> latent. Each is trained alone and knows nothing of sampling or of other modalities."""

from __future__ import annotations

from polyscore.codecs.base import Chain, Codec, Identity, Reshape
from polyscore.codecs.clips import SoundClip, VideoClip
from polyscore.codecs.foreign import ForeignCodec
from polyscore.codecs.foreign_tokens import DiffusersVQ, ForeignTokens
from polyscore.codecs.letters import Letters
from polyscore.codecs.linear import PCA
from polyscore.codecs.mel import LogMel
from polyscore.codecs.standard import Standardised
from polyscore.codecs.vae import RAE, VAE
from polyscore.codecs.vq import VQ

__all__ = [
    "PCA",
    "RAE",
    "VAE",
    "VQ",
    "Chain",
    "Codec",
    "DiffusersVQ",
    "ForeignCodec",
    "ForeignTokens",
    "Identity",
    "Letters",
    "LogMel",
    "Reshape",
    "SoundClip",
    "Standardised",
    "VideoClip",
]
