"""Small networks: convolutional encoders and decoders, residual MLPs, and the networks of discriminators."""

from __future__ import annotations

from polyscore.networks import alone, convnext, mixture, mlp, motion, patches, ratio, streams, timed, transformer, worded  # noqa: F401  (their classes register themselves)
from polyscore.networks.conv import ConvDecoder, ConvEncoder
from polyscore.networks.dense import DenseDecoder, DenseEncoder

__all__ = ["ConvDecoder", "ConvEncoder", "DenseDecoder", "DenseEncoder"]
