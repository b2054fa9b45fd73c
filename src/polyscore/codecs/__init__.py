"""Codecs: data <-> latent. Each is trained alone and knows nothing of sampling or of other modalities."""

from __future__ import annotations

from polyscore.codecs.base import Chain, Codec, Identity

__all__ = ["Chain", "Codec", "Identity"]
