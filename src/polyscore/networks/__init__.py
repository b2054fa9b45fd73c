"""Small networks: convolutional encoders and decoders."""

from __future__ import annotations

from polyscore.networks.conv import ConvDecoder, ConvEncoder

__all__ = ["ConvDecoder", "ConvEncoder"]
